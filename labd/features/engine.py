"""The engine: all features put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from labd.core import supervision
from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.core.ports import PluginRunner
from labd.core.snapshot import SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.core.supervision import FailureReporter
from labd.features.access.service import Access
from labd.features.activity.service import ActivityService
from labd.features.capture.service import CaptureService
from labd.features.checkpoints.forking import Forking
from labd.features.checkpoints.garbage import CheckpointCollector
from labd.features.checkpoints.handlers import CheckpointHandlers
from labd.features.checkpoints.saving import Saving
from labd.features.checkpoints.service import CheckpointService
from labd.features.classes.service import ClassController
from labd.features.classes.tokens import ClassTokens
from labd.features.connect.service import ConnectService
from labd.features.console.service import ConsoleService
from labd.features.events.service import EventStream
from labd.features.fsck.service import Fsck
from labd.features.guests.service import GuestService
from labd.features.host.service import Findings, HostService, Info
from labd.features.images.service import Library
from labd.features.labs.converge import Converger
from labd.features.labs.edits import Edits
from labd.features.labs.handlers import OperationHandlers
from labd.features.labs.overview import LabOverview
from labd.features.labs.readiness import BootWatcher, ReadinessKeeper
from labd.features.labs.recovery import Recovered, Recovery
from labd.features.labs.runner import NodeRunner
from labd.features.labs.service import Labs
from labd.features.labs.teardown import Teardown
from labd.features.labs.watch import Watcher
from labd.features.leases.service import Leasing
from labd.features.links.service import LinkService
from labd.features.memory.cgroups import CgroupController
from labd.features.memory.disk_guard import DiskGuard
from labd.features.memory.pausing import Pauser
from labd.features.memory.service import MemoryGuard
from labd.features.plugins.service import PluginService
from labd.features.publish.service import Publications
from labd.features.screens.service import ScreenService
from labd.features.serving.addresses import Addresses
from labd.features.serving.service import Serving
from labd.features.usage.service import UsageService
from labd.features.warm.members import WarmMembers
from labd.features.warm.service import WarmPools
from labd.host.supervision import Work, cancel_all
from labd.model.activity import Source
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.records import OperationKind
from labd.model.states import LabState, OperationState

log = logging.getLogger(__name__)


class Engine:
    """All features of labd.

    Args:
        adapters: The world.
        runner: Of plugin processes.
        findings: What the host's doctor says.
        info: Facts about this daemon.
    """

    def __init__(
        self, adapters: Adapters, runner: PluginRunner, *, findings: Findings, info: Info
    ) -> None:
        self._adapters = adapters
        self._inventory = adapters.inventory
        self.state_writer = StateWriter(adapters.inventory, adapters.clock)
        self.operations = Operations(
            adapters.inventory,
            adapters.clock,
            lambda lab: self.activity.touch(lab, Source.OPERATION),
            adapters.tasks,
        )
        self.activity = ActivityService(adapters, self.state_writer, self.operations)
        self.access = Access(adapters, self.state_writer)
        self._failures = FailureReporter(adapters.tasks, adapters.inventory)
        self.events = EventStream(adapters)
        self.host = HostService(adapters, self._failures, findings, info)
        self._watcher = Watcher(
            adapters.inventory, adapters.hypervisor, self.state_writer, adapters.tasks
        )
        self._readiness = ReadinessKeeper(adapters, self.state_writer)
        self.links = LinkService(adapters, self.state_writer)
        self.captures = CaptureService(adapters, self.state_writer, self.activity)
        self._boots = BootWatcher(adapters, self.state_writer, self._watcher, self._readiness)
        self.console = ConsoleService(adapters, self.state_writer, self.activity)
        nodes = NodeRunner(adapters, self.state_writer, self._watcher, self._readiness, self.links)
        self.connect = ConnectService(adapters, self.state_writer, self.activity)
        self.addresses = Addresses(adapters, self.state_writer)
        self._publications = Publications(adapters, self.connect)
        self._serving = Serving(adapters, self.state_writer)
        loader = SnapshotLoader(adapters, self.state_writer)
        teardown = Teardown(
            adapters, self.state_writer, nodes, self._publications, self._serving, self.links
        )
        converger = Converger(
            adapters,
            self.state_writer,
            nodes,
            self._readiness,
            self._publications,
            self._serving,
            self.links,
            loader,
            teardown,
        )
        forking = Forking(adapters, self.state_writer, loader, converger, nodes, self.links)
        collector = CheckpointCollector(adapters, self.operations)
        self._collector = collector
        saving = Saving(
            adapters, self.state_writer, self.operations, loader, teardown, self._watcher
        )
        handlers = OperationHandlers(
            adapters,
            self.state_writer,
            self.operations,
            converger,
            teardown,
            self._watcher,
        )
        handlers.destroyed.append(collector.tidy)
        CheckpointHandlers(adapters, self.operations, handlers, teardown, forking, saving)
        self.labs = Labs(adapters, self.state_writer, self.operations, loader, self._publications)
        self.leases = Leasing(adapters, self.state_writer, self.labs)
        self.overview = LabOverview(adapters, self.operations, self.leases)
        members = WarmMembers(
            adapters, self.state_writer, self.labs, loader, forking, self._watcher
        )
        self.checkpoints = CheckpointService(
            adapters,
            self.state_writer,
            self.operations,
            self.labs,
            saving,
            collector,
            self.leases,
            members,
        )
        self.pools = WarmPools(
            adapters, self.operations, self.labs, self.checkpoints, members, self._watcher
        )
        self.labs.release = self.pools.release
        self.classes = ClassController(
            adapters, self.operations, self.labs, self.checkpoints, self.leases
        )
        self.class_tokens = ClassTokens(adapters)
        self.images = Library(adapters, self.operations)
        pauser = Pauser(adapters, self.state_writer, self.operations, self._watcher)
        self.memory_guard = MemoryGuard(adapters, self.state_writer, pauser)
        self.memory_guard.reliefs.append(self.pools.relieve)
        self.disk_guard = DiskGuard(adapters, pauser)
        self.cgroup_controller = CgroupController(adapters, self.state_writer)
        self.usage = UsageService(adapters, self.state_writer, self.memory_guard)
        self.guests = GuestService(adapters, self.state_writer, self.activity)
        self.screens = ScreenService(adapters.screens, self.state_writer, self.activity)
        self.edits = Edits(adapters, self.state_writer, self.operations, self.labs)
        self.plugins = PluginService(adapters, runner)
        self._recovery = Recovery(
            adapters,
            self.state_writer,
            self.operations,
            self._watcher,
            self._publications,
            self._serving,
            self.links,
            nodes,
            [members],
        )
        self.fsck = Fsck(adapters, self.operations, [self.cgroup_controller.check])
        self._tasks: list[asyncio.Task[None]] = []

    # life

    async def start(self) -> Recovered:
        """Recover, then work. Nothing is asked of the engine before this returns."""
        self._supervise(
            {
                supervision.NAME: self._failures.run,
                "watcher": self._watcher.run,
                "boots": self._boots.run,
                "keeper": self._collector.run,
                "serving": self._serving.run,
            }
        )
        recovered = await self._recovery.run()
        self._supervise(
            {
                "leases": self.leases.run,
                "classes": self.classes.run,
                "memory": self.memory_guard.run,
                "disk-quotas": self.disk_guard.run,
                "activity": self.activity.run,
                "pools": self.pools.run,
                "cgroups": self.cgroup_controller.run,
            }
        )
        await self.state_writer.emit(
            EventDraft(
                type=EventType.DAEMON_STARTED,
                data={
                    "adopted": recovered.adopted,
                    "lost": recovered.lost,
                    "orphans": recovered.orphans,
                    "resumed": recovered.resumed,
                },
            )
        )
        return recovered

    def _supervise(self, loops: Mapping[str, Work]) -> None:
        supervise = self._adapters.tasks.supervise
        self._tasks += [supervise(name, work) for name, work in loops.items()]

    async def close(self) -> None:
        """Stop working and leave every VM as it is."""
        try:
            await self.classes.close()
            await self.pools.close()
            await self.leases.close()
            await self.operations.close()
            await self._publications.close()
            await self._serving.close()
            await self.links.close()
            await self.plugins.close()
            self._readiness.close()
            await cancel_all(self._tasks)
            await self._watcher.close()
            await self.cgroup_controller.close()
            await self.state_writer.emit(EventDraft(type=EventType.DAEMON_STOPPED))
        finally:
            await self._adapters.hypervisor.close()

    async def take_everything_down(self) -> None:
        """Stop every lab, and what stands ready; used by `labd serve --down`."""
        await self.pools.rest()
        labs = [lab for lab in await self._inventory.labs() if lab.state is not LabState.STOPPED]
        await asyncio.gather(*(self._take_down(lab.name) for lab in labs))

    async def _take_down(self, lab: str) -> None:
        """Stop a lab; one that cannot be stopped is told, and keeps no other from it."""
        try:
            holder = self.operations.holder(lab)
            if holder is not None:
                await self.operations.wait(holder.id, 120.0)
                if await self._inventory.lab(lab) is None:
                    return
            operation = await self.labs.act(OperationKind.DOWN, lab)
            done = await self.operations.wait(operation.id, 120.0)
        except LabdError as error:
            log.warning("lab %s could not be stopped: %s", lab, error)
            return
        if done.state is not OperationState.SUCCEEDED:
            why = (done.error or {}).get("message", "it did not end in time")
            log.warning("lab %s could not be stopped: %s", lab, why)

    def services(self) -> Sequence[object]:
        """Return everything that routes may ask for, one of each type."""
        return (
            self.access,
            self.activity,
            self.addresses,
            self.captures,
            self.checkpoints,
            self.class_tokens,
            self.classes,
            self.connect,
            self.console,
            self.edits,
            self.events,
            self.fsck,
            self.guests,
            self.host,
            self.images,
            self.labs,
            self.leases,
            self.links,
            self.operations,
            self.overview,
            self.plugins,
            self.pools,
            self.screens,
            self.usage,
        )
