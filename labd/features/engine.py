"""The engine: its parts put together, and the one implementation of `EngineApi`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from labd.core import supervision
from labd.core.adapters import Adapters
from labd.core.failure_context import read_log
from labd.core.operations import Operations
from labd.core.ports import PluginRunner
from labd.core.resolve import size_node
from labd.core.snapshot import SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.core.supervision import FailureReporter
from labd.drivers.node.port import Console
from labd.features.access.service import Access
from labd.features.activity.attended import AttendedConsole
from labd.features.activity.service import ActivityService
from labd.features.capture.service import CaptureService
from labd.features.checkpoints.forking import Forking
from labd.features.checkpoints.garbage import EVERY, CheckpointCollector
from labd.features.checkpoints.saving import Saving
from labd.features.checkpoints.service import CheckpointService
from labd.features.classes.service import ClassController
from labd.features.connect.service import ConnectService
from labd.features.facade import Change, LabView, NetworkView, PluginView
from labd.features.fsck.service import Fsck
from labd.features.guests.service import GuestService
from labd.features.images.service import Library
from labd.features.labs.converge import Converger
from labd.features.labs.edits import Edits
from labd.features.labs.handlers import OperationHandlers
from labd.features.labs.readiness import ReadinessKeeper, is_immediate
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
from labd.features.plugins.service import Plugins
from labd.features.publish.service import Publications
from labd.features.screens.service import ScreenService
from labd.features.serving.addresses import Addresses
from labd.features.serving.service import Serving
from labd.features.usage.service import UsageService
from labd.features.warm.members import WarmMembers
from labd.features.warm.service import WarmPools
from labd.host.supervision import Work, cancel_all
from labd.host.threads import quick
from labd.host.timelog import LogLine, read_lines, read_stamped
from labd.model.activity import Source
from labd.model.differences import Difference
from labd.model.errors import LabdError, NotFound
from labd.model.events import Event, EventDraft, EventType
from labd.model.lab_leases import LeaseAsk
from labd.model.names import NodeRef, did_you_mean
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord, by_lab
from labd.model.specs import Image, ImageFormat, LabSpec, Profile
from labd.model.states import LabState, NetworkState, NodeState, OperationState

log = logging.getLogger(__name__)


Findings = Callable[[], Awaitable[Sequence[Mapping[str, str]]]]
Info = Callable[[], Mapping[str, object]]


class Engine:
    """All use-cases of labd.

    Args:
        world: The adapters.
        runner: Of plugin processes.
        findings: What the host's doctor says.
        info: Facts about this daemon.
    """

    def __init__(
        self, adapters: Adapters, runner: PluginRunner, *, findings: Findings, info: Info
    ) -> None:
        self._adapters = adapters
        self._inventory = adapters.inventory
        self._findings = findings
        self._info = info
        self.state_writer = StateWriter(adapters.inventory, adapters.clock)
        self._operations = Operations(
            adapters.inventory,
            adapters.clock,
            lambda lab: self.activity.touch(lab, Source.OPERATION),
            adapters.tasks,
        )
        self.activity = ActivityService(adapters, self.state_writer, self._operations)
        self.access = Access(adapters, self.state_writer)
        self._failures = FailureReporter(adapters.tasks, adapters.inventory)
        self._watcher = Watcher(
            adapters.inventory, adapters.hypervisor, self.state_writer, adapters.tasks
        )
        self._readiness = ReadinessKeeper(adapters, self.state_writer)
        self.links = LinkService(adapters, self.state_writer)
        self.captures = CaptureService(adapters, self.state_writer, self.activity)
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
        collector = CheckpointCollector(adapters, self._operations)
        self._collector = collector
        saving = Saving(
            adapters, self.state_writer, self._operations, loader, teardown, self._watcher
        )
        handlers = OperationHandlers(
            adapters,
            self.state_writer,
            self._operations,
            converger,
            teardown,
            self._watcher,
            forking,
            saving,
            collector,
        )
        self._labs = Labs(
            adapters, self.state_writer, self._operations, loader, handlers, self._publications
        )
        self.leases = Leasing(adapters, self.state_writer, self._labs)
        members = WarmMembers(
            adapters, self.state_writer, self._labs, loader, forking, self._watcher
        )
        self.checkpoints = CheckpointService(
            adapters,
            self.state_writer,
            self._operations,
            self._labs,
            handlers,
            saving,
            collector,
            self.leases,
            members,
        )
        self.pools = WarmPools(
            adapters, self._operations, self._labs, self.checkpoints, members, self._watcher
        )
        self._labs.release = self.pools.release
        self.classes = ClassController(
            adapters, self._operations, self._labs, self.checkpoints, self.leases
        )
        self._library = Library(adapters, self._operations)
        pauser = Pauser(adapters, self.state_writer, self._operations, self._watcher)
        self.memory_guard = MemoryGuard(adapters, self.state_writer, pauser)
        self.memory_guard.reliefs.append(self.pools.relieve)
        self.disk_guard = DiskGuard(adapters, pauser)
        self.cgroup_controller = CgroupController(adapters, self.state_writer)
        self.usage = UsageService(adapters, self.state_writer, self.memory_guard)
        self.guests = GuestService(adapters, self.state_writer, self.activity)
        self.screens = ScreenService(adapters.screens, self.state_writer, self.activity)
        self.edits = Edits(adapters, self.state_writer, self._operations, self._labs, handlers)
        self.plugin_service = Plugins(adapters, runner)
        self._recovery = Recovery(
            adapters,
            self.state_writer,
            self._operations,
            handlers,
            self._watcher,
            self._publications,
            self._serving,
            self.links,
            members,
            nodes,
        )
        self._fsck = Fsck(adapters, self._operations)
        self._tasks: list[asyncio.Task[None]] = []

    # life

    async def start(self) -> Recovered:
        """Recover, then work. Nothing is asked of the engine before this returns."""
        self._supervise(
            {
                supervision.NAME: self._failures.run,
                "watcher": self._watcher.run,
                "boots": self._watch_boots,
                "keeper": self._keep_house,
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
            await self._operations.close()
            await self._publications.close()
            await self._serving.close()
            await self.links.close()
            await self.plugin_service.close()
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
            holder = self._operations.holder(lab)
            if holder is not None:
                await self._operations.wait(holder.id, 120.0)
                if await self._inventory.lab(lab) is None:
                    return
            operation = await self.act(OperationKind.DOWN, lab)
            done = await self._operations.wait(operation.id, 120.0)
        except LabdError as error:
            log.warning("lab %s could not be stopped: %s", lab, error)
            return
        if done.state is not OperationState.SUCCEEDED:
            why = (done.error or {}).get("message", "it did not end in time")
            log.warning("lab %s could not be stopped: %s", lab, why)

    async def _keep_house(self) -> None:
        """Let go, now and then, of what checkpoints left behind."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._collector.tidy()
            except (LabdError, OSError) as error:
                log.warning("what checkpoints left behind cannot be removed: %s", error)

    async def _watch_boots(self) -> None:
        """Watch nodes that run again on their own account until they are ready."""
        while True:
            for ref in await self._watcher.boots():
                with self._adapters.tasks.contained("boots"):  # the other nodes are watched on
                    try:
                        await self._watch_boot(ref)
                    except LabdError as error:
                        log.warning("node %s cannot be watched: %s", ref, error)

    async def _watch_boot(self, ref: NodeRef) -> None:
        lab, node = await self.state_writer.lab(ref.lab), await self.state_writer.node(ref)
        if node.state is not NodeState.RUNNING:
            return
        spec = next((spec for spec in lab.spec.nodes if spec.name == ref.node), None)
        if spec is None:
            return  # it is on its way out
        profiles = {p.name: p for p in await self._inventory.profiles()}
        images = {i.name: i for i in await self._inventory.images()}
        ready = size_node(spec, profiles, images).ready
        if is_immediate(ready, spec):
            others = set(NodeState) - {NodeState.RUNNING}
            await self.state_writer.move(ref, NodeState.READY, unless=others)
            return
        namespace = self._adapters.namespace(lab)
        self._readiness.watch(ref, node.key, namespace, spec, ready)

    # labs

    async def up(
        self,
        name: str,
        spec: LabSpec,
        *,
        keep: bool = False,
        force: bool = False,
        timeout: float | None = None,
        lease: LeaseAsk | None = None,
    ) -> OperationRecord:
        """See `EngineApi.up`."""
        more = self.leases.of(name, lease)
        return await self._labs.up(name, spec, keep=keep, force=force, timeout=timeout, more=more)

    async def plan(self, name: str, spec: LabSpec) -> Sequence[Change]:
        """See `EngineApi.plan`."""
        return await self._labs.plan(name, spec)

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        """See `EngineApi.act`."""
        return await self._labs.act(kind, lab, nodes, force=force, grace=grace)

    async def labs(self) -> Sequence[tuple[LabRecord, Sequence[NodeRecord]]]:
        """See `EngineApi.labs`."""
        nodes = by_lab(await self._inventory.nodes())
        return [(lab, nodes.get(lab.name, [])) for lab in await self._inventory.labs()]

    async def lab(self, name: str) -> LabView:
        """See `EngineApi.lab`."""
        lab = await self._inventory.lab(name)
        if lab is None:
            names = [other.name for other in await self._inventory.labs()]
            raise NotFound(f"there is no lab {name}{did_you_mean(name, names)}")
        nodes = await self._inventory.nodes(name)
        plan = self._adapters.network_plan(lab, {node.name: node for node in nodes})
        there = set(await self._adapters.networks.bridges(plan.namespace))
        specs = {net.name: net for net in lab.spec.networks}
        networks = tuple(
            NetworkView(
                name=bridge.network,
                bridge=bridge.bridge,
                state=NetworkState.UP if bridge.bridge in there else NetworkState.DOWN,
                subnet=specs[bridge.network].subnet,
                uplink=specs[bridge.network].uplink,
                members=tuple(
                    f"{node.name}/{nic.name}"
                    for node in lab.spec.nodes
                    for nic in node.nics
                    if nic.network == bridge.network
                ),
            )
            for bridge in plan.bridges
        )
        return LabView(
            lab=lab,
            nodes=tuple(nodes),
            networks=networks,
            operation=self._operations.holder(name),
            published=tuple(await self._inventory.publications(name)),
            lease=await self.leases.find(name),
        )

    async def node(self, ref: NodeRef) -> NodeRecord:
        """See `EngineApi.node`."""
        return await self.state_writer.node(ref)

    @asynccontextmanager
    async def console(self, ref: NodeRef) -> AsyncIterator[Console]:
        """See `EngineApi.console`."""
        node = await self.state_writer.node(ref)
        async with self._adapters.hypervisor.console(node.key) as console:
            yield AttendedConsole(console, lambda: self.activity.touch(ref.lab, Source.CONSOLE))

    async def log_lines(self, ref: NodeRef, after: int) -> Sequence[tuple[str, LogLine]]:
        """See `EngineApi.log_lines`."""
        node = await self.state_writer.node(ref)
        if node.machine is None:
            return []
        console = self._adapters.hypervisor.console_log(node.machine)
        messages = self._adapters.hypervisor.message_log(node.machine)
        lines = [
            *(("console", line) for line in await quick(read_lines, console, after)),
            *(("qemu", line) for line in await quick(read_stamped, messages)),
        ]
        return sorted(lines, key=lambda item: item[1].time)

    async def console_log(self, ref: NodeRef) -> bytes:
        """See `EngineApi.console_log`."""
        node = await self.state_writer.node(ref)
        if node.machine is None:
            return b""
        path = self._adapters.hypervisor.console_log(node.machine)
        return await quick(read_log, path)

    # operations and events

    async def operations(self, *, limit: int = 100) -> Sequence[OperationRecord]:
        """See `EngineApi.operations`."""
        return await self._inventory.operations(limit=limit)

    async def operation(self, id: str) -> OperationRecord:
        """See `EngineApi.operation`."""
        return await self._operations.get(id)

    async def wait_operation(self, id: str, timeout: float) -> OperationRecord:
        """See `EngineApi.wait_operation`."""
        return await self._operations.wait(id, timeout)

    async def events(self, after: int, limit: int) -> Sequence[Event]:
        """See `EngineApi.events`."""
        return await self._inventory.events(after, limit)

    async def event_bounds(self) -> tuple[int, int]:
        """See `EngineApi.event_bounds`."""
        return await self._inventory.first_seq(), await self._inventory.last_seq()

    async def wait_events(self, after: int) -> int:
        """See `EngineApi.wait_events`."""
        return await self._inventory.wait_events(after)

    # images and profiles

    async def images(self) -> Sequence[Image]:
        """See `EngineApi.images`."""
        return await self._inventory.images()

    async def image(self, name: str) -> tuple[Image, Sequence[str]]:
        """See `EngineApi.image`."""
        return await self._library.image(name)

    async def receive_image(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str,
        source: str,
        kernel_size: int | None,
        cmdline: str,
        ready_pattern: str,
    ) -> Image:
        """See `EngineApi.receive_image`."""
        return await self._library.receive(
            name,
            chunks,
            format=format,
            sha256=sha256,
            source=source,
            kernel_size=kernel_size,
            cmdline=cmdline,
            ready_pattern=ready_pattern,
        )

    async def import_image(
        self, name: str, url: str, *, format: ImageFormat | None, sha256: str
    ) -> OperationRecord:
        """See `EngineApi.import_image`."""
        return await self._library.download(name, url, format=format, sha256=sha256)

    async def build_image(self, recipe: str, name: str) -> OperationRecord:
        """See `EngineApi.build_image`."""
        return await self._library.build(recipe, name)

    async def remove_image(self, name: str) -> None:
        """See `EngineApi.remove_image`."""
        await self._library.remove(name)

    async def profiles(self) -> Sequence[Profile]:
        """See `EngineApi.profiles`."""
        return await self._inventory.profiles()

    async def profile(self, name: str) -> Profile:
        """See `EngineApi.profile`."""
        return await self._library.profile(name)

    async def add_profile(self, profile: Profile) -> Profile:
        """See `EngineApi.add_profile`."""
        return await self._library.add_profile(profile)

    async def remove_profile(self, name: str) -> None:
        """See `EngineApi.remove_profile`."""
        await self._library.remove_profile(name)

    # plugins

    async def plugins(self) -> Sequence[PluginView]:
        """See `EngineApi.plugins`."""
        return await self.plugin_service.all()

    async def enable_plugin(self, name: str, settings: Mapping[str, object]) -> PluginView:
        """See `EngineApi.enable_plugin`."""
        return await self.plugin_service.enable(name, settings)

    async def disable_plugin(self, name: str) -> PluginView:
        """See `EngineApi.disable_plugin`."""
        return await self.plugin_service.disable(name)

    async def plugin_log(self, name: str) -> bytes:
        """See `EngineApi.plugin_log`."""
        return await self.plugin_service.log(name)

    # host

    async def differences(self, *, repair: bool) -> Sequence[Difference]:
        """See `EngineApi.differences`."""
        return [
            *await self._fsck.check(repair=repair),
            *await self.cgroup_controller.check(repair=repair),
        ]

    async def findings(self) -> Sequence[Mapping[str, str]]:
        """See `EngineApi.findings`."""
        own = [finding.as_dict() for finding in self._failures.findings(time.time)]
        return [*await self._findings(), *own]

    async def info(self) -> Mapping[str, object]:
        """See `EngineApi.info`."""
        nodes = await self._inventory.nodes()
        return {
            **self._info(),
            "labs": len(await self._inventory.labs()),
            "nodes": len(nodes),
            "nodes_running": sum(
                node.state in {NodeState.RUNNING, NodeState.READY} for node in nodes
            ),
            "last_seq": await self._inventory.last_seq(),
            "published_seq": await self._inventory.published_seq(),
        }
