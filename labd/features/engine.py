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
        self._tasks: list[asyncio.Task[None]] = []
        self.state_writer = writer = StateWriter(adapters.inventory, adapters.clock)
        self.operations = Operations(
            adapters.inventory,
            adapters.clock,
            lambda lab: self.activity.touch(lab, Source.OPERATION),
            adapters.tasks,
        )
        self._failures = FailureReporter(adapters.tasks, adapters.inventory)
        self.activity = ActivityService(adapters, writer, self.operations)
        self.access = Access(adapters, writer)
        self.events = EventStream(adapters)
        self.host = HostService(adapters, self._failures, findings, info)
        self.images = Library(adapters, self.operations)
        self.plugins = PluginService(adapters, runner)
        self._reach_labs()
        self._make_labs()
        self._make_forks()
        self._share_the_host()

    def _reach_labs(self) -> None:
        """Make what leads into labs: consoles, screens, agents, connections, captures."""
        adapters, writer = self._adapters, self.state_writer
        self.console = ConsoleService(adapters, writer, self.activity)
        self.guests = GuestService(adapters, writer, self.activity)
        self.screens = ScreenService(adapters.nodes, writer, self.activity)
        self.captures = CaptureService(adapters, writer, self.activity)
        self.connect = ConnectService(adapters, writer, self.activity)
        self.addresses = Addresses(adapters, writer)

    def _make_labs(self) -> None:
        """Make labs with their parts, and the works of their operations."""
        adapters, writer, operations = self._adapters, self.state_writer, self.operations
        self.links = LinkService(adapters, writer)
        self._publications = Publications(adapters, self.connect)
        self._serving = Serving(adapters, writer)
        parts = (self._publications, self._serving, self.links)
        self._watcher = Watcher(adapters.inventory, adapters.nodes, writer, adapters.tasks)
        self._readiness = ReadinessKeeper(adapters, writer)
        self._boots = BootWatcher(adapters, writer, self._watcher, self._readiness)
        self._runner = NodeRunner(adapters, writer, self._watcher, self._readiness, self.links)
        self._loader = SnapshotLoader(adapters, writer)
        self._teardown = Teardown(adapters, writer, self._runner, *parts)
        self._converger = Converger(
            adapters, writer, self._runner, self._readiness, *parts, self._loader, self._teardown
        )
        self._handlers = OperationHandlers(
            adapters, writer, operations, self._converger, self._teardown, self._watcher
        )
        self.labs = Labs(adapters, writer, operations, self._loader, self._publications)
        self.edits = Edits(adapters, writer, operations, self.labs)
        self.leases = Leasing(adapters, writer, self.labs)
        self.overview = LabOverview(adapters, operations, self.leases)

    def _make_forks(self) -> None:
        """Make checkpoints, forks, warm pools and classes, and the recovery of all."""
        adapters, writer, operations = self._adapters, self.state_writer, self.operations
        forking = Forking(adapters, writer, self._loader, self._converger, self._runner, self.links)
        saving = Saving(adapters, writer, operations, self._loader, self._teardown, self._watcher)
        self._collector = CheckpointCollector(adapters, operations)
        self._handlers.destroyed.append(self._collector.tidy)
        CheckpointHandlers(adapters, operations, self._handlers, self._teardown, forking, saving)
        members = WarmMembers(adapters, writer, self.labs, self._loader, forking, self._watcher)
        self.checkpoints = CheckpointService(
            adapters, writer, operations, self.labs, saving, self._collector, self.leases, members
        )
        self.pools = WarmPools(
            adapters, operations, self.labs, self.checkpoints, members, self._watcher
        )
        self.labs.release = self.pools.release
        self.classes = ClassController(
            adapters, operations, self.labs, self.checkpoints, self.leases
        )
        self.class_tokens = ClassTokens(adapters)
        self._recovery = Recovery(
            adapters,
            writer,
            operations,
            self._watcher,
            self._publications,
            self._serving,
            self.links,
            self._runner,
            [members],
        )

    def _share_the_host(self) -> None:
        """Make what watches memory, disks and control groups, and compares the host with rows."""
        adapters, writer = self._adapters, self.state_writer
        pauser = Pauser(adapters, writer, self.operations, self._watcher)
        self.memory_guard = MemoryGuard(adapters, writer, pauser)
        self.memory_guard.reliefs.append(self.pools.relieve)
        self.disk_guard = DiskGuard(adapters, pauser)
        self.cgroup_controller = CgroupController(adapters, writer)
        self.usage = UsageService(adapters, writer, self.memory_guard)
        self.fsck = Fsck(adapters, self.operations, [self.cgroup_controller.check])

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
            await self._adapters.nodes.close()

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
