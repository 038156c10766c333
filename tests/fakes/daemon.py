"""The real engine over fakes: a host, networks and images in memory, and the real inventory.

`FakeDaemon` is a daemon and the machine that it runs on. `start` and `restart` put a new engine on
it; the host's processes, the networks and the inventory outlive it. A `CrashPoint` ends a daemon at
any call that it makes of the world, as SIGKILL would: nothing that it still does has an effect.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from labd.core.adapters import Adapters, Limits, present_moment
from labd.core.boot_slots import BootSlots
from labd.core.guard import guard
from labd.core.nodes import Nodes
from labd.drivers.network.linux.plan import plan
from labd.drivers.node.driver import NodeDriver
from labd.features.engine import Engine
from labd.features.labs.recovery import Recovered
from labd.host.failpoints import Failpoints
from labd.inventory.sqlite import KEEP_EVENTS, SqliteInventory
from labd.model.disks import DiskKind, DiskRef
from labd.model.errors import StorageFailed
from labd.model.kinds import DEFAULT_KIND
from labd.model.lab_leases import LeaseAsk, Moment
from labd.model.names import NodeRef
from labd.model.process import ProcessId
from labd.model.quotas import Quotas
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord
from labd.model.specs import (
    LabSpec,
)
from labd.model.states import NodeState, OperationState
from labd.model.units import GIB
from labd.model.usage import ProcessUsage
from tests.event_contract import unpromised
from tests.fakes import checks
from tests.fakes.checkpoints import FakeCheckpoints, FakeSnapshots
from tests.fakes.connect import FakeDialer, FakeKeys, FakePublishedPorts
from tests.fakes.crash import ASKED, CrashingInventory, CrashingPort, CrashPoint
from tests.fakes.devices import FakeDevices
from tests.fakes.guests import FakeGuestFiles
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages
from tests.fakes.labs import LIMIT, image, line
from tests.fakes.light import light_driver
from tests.fakes.networks import (
    FakeCaptures,
    FakeCarriers,
    FakeLinks,
    FakeNetworks,
    open_taps,
)
from tests.fakes.plugins import FakePlugins
from tests.fakes.screens import FakeScreens
from tests.fakes.services import FakeInterfaces, FakeServers, FakeUplinks
from tests.fakes.storage import FakeStorage
from tests.fakes.usage import FakeCgroups, FakeCounters, FakeMemory

K = OperationKind

# What each process of a `FakeHost` has taken.
USED = ProcessUsage(cpu=1.5, own=40 << 20, shared=80 << 20, written=4096)


class Clock:
    """The clocks of a host, which go as a test says."""

    def __init__(self) -> None:
        self.moment = Moment(wall=1_769_860_800.0, boottime=1000.0, boot_id="one")

    def __call__(self) -> Moment:
        return self.moment

    def go(self, seconds: float, *, jump: float = 0.0) -> None:
        """Let time pass; the wall clock jumps besides."""
        now = self.moment
        self.moment = replace(now, wall=now.wall + seconds + jump, boottime=now.boottime + seconds)


class FakeDaemon:
    """A machine, and the daemon that runs on it now."""

    engine: Engine
    hypervisor: FakeHypervisor
    snapshots: FakeSnapshots
    crash: CrashPoint

    def __init__(self, inventory: SqliteInventory, root: Path) -> None:
        self.host = FakeHost()
        self.light = FakeHost(first_pid=500_000)  # of nodes of the kind `light`
        self.networks = FakeNetworks()
        self.uplinks = FakeUplinks()
        self.servers = FakeServers()
        self.interfaces = FakeInterfaces()
        self.links = FakeLinks(self.networks)
        self.captures = FakeCaptures()
        self.screens = FakeScreens(self.host)
        self.images = FakeImages(root / "images")
        self.storage = FakeStorage(root / "state", self._shares, lambda: self.written)
        self.host.has_disk = self.light.has_disk = self.storage.there
        self.checkpoints = FakeCheckpoints(root / "checkpoints", self.storage)
        self.plugins = FakePlugins()
        self.keys = FakeKeys()
        self.dialer = FakeDialer()
        self.published_ports = FakePublishedPorts()
        self.counters = FakeCounters()
        self.inventory = inventory
        self.root = root
        self.path = Path(":memory:")
        self.memory = 64 * GIB
        self.own_memory = 0  # of each process
        self.used: Callable[[int], ProcessUsage] = lambda _: USED
        self.slots = 8
        self.pressure = FakeMemory(self._lives)
        self.cgroups = FakeCgroups(self._lives)
        self.quotas = Quotas()
        self.written = 0  # bytes that the disks of each node take
        self.moment = present_moment
        self.at_rest = True  # when it ends, so that `check` holds
        self.made_up = False  # a test tells events of what has not happened
        self.findings: list[Mapping[str, str]] = []
        self.info: dict[str, object] = {}
        self._orders = root / "orders"

    def _shares(self, ref: DiskRef) -> bool:
        if ref.kind is DiskKind.IMAGE:
            file = self.root / "images" / ref.key / "disk"
            return ref.key in self.images.contents or file.is_file()
        return f"sha256:{ref.key}" in self.checkpoints.layers

    def order(self, text: str = "") -> None:
        """Order something of the failpoints of daemons; see `labd.host.failpoints`."""
        fresh = self._orders.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._orders)

    def _lives(self, process: ProcessId) -> bool:
        machines = {**self.host.machines, **self.light.machines}
        return process in {machine.process for machine in machines.values()}

    def _used_by(self, pid: int) -> ProcessUsage:
        return self.used(pid)  # as a test says by now

    async def start(self, **crash: Any) -> Recovered:
        """Start a daemon. `crash` is set on its `CrashPoint`."""
        self.crash = CrashPoint()
        for key, value in crash.items():
            setattr(self.crash, key, value)
        self.hypervisor = FakeHypervisor(self.host, self.crash.dead)
        self.snapshots = FakeSnapshots(self.host, self.hypervisor)
        self.published_ports.daemon_ended()

        def crashing(target: Any, kind: str) -> Any:
            return CrashingPort(target, self.crash, ASKED[kind])

        inventory: Any = CrashingInventory(self.inventory, self.crash, set())
        adapters = Adapters(
            inventory=inventory,
            nodes=Nodes({driver.kind: driver for driver in self._drivers(crashing)}),
            networks=crashing(self.networks, "networks"),
            uplinks=crashing(self.uplinks, "uplinks"),
            servers=crashing(self.servers, "servers"),
            links=crashing(self.links, "wires"),
            captures=self.captures,
            memory=crashing(self.pressure, "memory"),
            counters=crashing(self.counters, "counters"),
            cgroups=crashing(self.cgroups, "cgroups"),
            images=crashing(self.images, "images"),
            storage=crashing(self.storage, "storage"),
            checkpoints=crashing(self.checkpoints, "checkpoints"),
            dialer=self.dialer,
            published_ports=self.published_ports,
            keys=crashing(self.keys, "keys"),
            state=self.root / "state",
            run=self.root / "run",
            limits=Limits(
                uid_base=checks.UID_BASE,
                memory_reserve=GIB,
                quotas=self.quotas,
                stall=40,
            ),
            plan_network=lambda spec, key, keys: plan(spec, key, "fake", keys),
            memory_available=lambda: self.memory,
            own_memory=lambda _: self.own_memory,
            process_usage=self._used_by,
            memory_total=64 * GIB,
            moment=self.moment,
            booting=BootSlots(self.slots),
        )

        async def findings() -> Sequence[Mapping[str, str]]:
            return self.findings

        adapters = guard(adapters, Failpoints(self._orders if self._orders.exists() else None))
        self.engine = Engine(adapters, self.plugins, findings=findings, info=lambda: self.info)
        return await self.engine.start()

    def _drivers(self, crashing: Callable[[Any, str], Any]) -> Sequence[NodeDriver]:
        """Return the drivers of a new daemon."""
        port = crashing(self.hypervisor, "nodes")
        vm = NodeDriver(
            kind=DEFAULT_KIND,
            port=port,
            consoles=port,
            agents=port,
            accelerators=port,
            guest_files=FakeGuestFiles(self.host),
            interfaces=self.interfaces,
            screens=self.screens,
            devices=crashing(FakeDevices(self.host), "devices"),
            snapshots=crashing(self.snapshots, "snapshots"),
            carriers=crashing(FakeCarriers(self.host), "carriers"),
        )
        return [vm, light_driver(self.light, crashing)]

    async def kill_daemon(self) -> None:
        """End the daemon as SIGKILL does."""
        self.crash.dead.set()
        self.host.daemon = self.light.daemon = None
        with suppress(StorageFailed):
            await self.engine.close()
        for tap in open_taps():
            os.close(tap)

    async def reopen(self) -> None:
        """Open the inventory again, which a test has closed and changed."""
        self.inventory = await SqliteInventory.open(self.path, strict=True)

    async def restart(self, **crash: Any) -> Recovered:
        """Kill the daemon, and start another one."""
        await self.kill_daemon()
        return await self.start(**crash)

    async def close(self) -> None:
        """Stop the daemon as SIGTERM does."""
        await self.engine.close()

    # asking

    async def ended_or_dead(self, operation: str) -> None:
        """Wait for the end of an operation, or of the daemon (which cannot write it then)."""
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self.engine.operations.wait(operation, LIMIT)),
            asyncio.create_task(self.crash.dead.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def death(self) -> None:
        """Wait until the daemon has died, as its `CrashPoint` says."""
        async with asyncio.timeout(LIMIT):
            await self.crash.dead.wait()

    async def done(self, asked: Awaitable[OperationRecord]) -> OperationRecord:
        """Return an operation when it has ended."""
        operation = await asked
        async with asyncio.timeout(LIMIT):
            operation = await self.engine.operations.wait(operation.id, LIMIT)
        assert operation.state is not OperationState.RUNNING, operation
        return operation

    async def ok(self, asked: Awaitable[OperationRecord]) -> OperationRecord:
        """Return an operation that has succeeded."""
        operation = await self.done(asked)
        assert operation.state is OperationState.SUCCEEDED, operation.error
        return operation

    async def fails(self, asked: Awaitable[OperationRecord]) -> Mapping[str, object]:
        """Return the error of an operation that has failed."""
        operation = await self.done(asked)
        assert operation.state is OperationState.FAILED
        assert operation.error is not None
        return operation.error

    async def up(
        self, spec: LabSpec, name: str = "web", *, lease: LeaseAsk | None = None, **how: Any
    ) -> OperationRecord:
        more = self.engine.leases.of(name, lease)
        return await self.ok(self.engine.labs.up(name, spec, more=more, **how))

    async def act(self, kind: K, *nodes: str, **how: Any) -> OperationRecord:
        return await self.ok(self.engine.labs.act(kind, "web", nodes, **how))

    async def idle(self) -> None:
        """Return when no operation runs."""
        async with asyncio.timeout(LIMIT):
            while running := await self.inventory.operations(running=True):
                for operation in running:
                    await self.engine.operations.wait(operation.id, LIMIT)
                await asyncio.sleep(0)

    async def filled(self) -> None:
        """Return when nothing is being made for a pool, or ended."""
        async with asyncio.timeout(LIMIT):
            while any(
                len(view.members) != view.record.size and not view.reason
                for view in await self.engine.pools.all()
            ) or any(m.state != "ready" for m in await self.inventory.pool_members()):
                await asyncio.sleep(0.002)

    async def until(self, node: str, *states: NodeState, lab: str = "web") -> NodeRecord:
        """Return a node as soon as it is in one of some states."""
        async with asyncio.timeout(LIMIT):
            found = await self.engine.state_writer.wait_node(NodeRef(lab, node), states)
        assert found is not None
        return found

    async def key(self, node: str, lab: str = "web") -> str:
        return (await self.engine.console.node(NodeRef(lab, node))).key

    async def lab(self, name: str = "web") -> LabRecord:
        found = await self.inventory.lab(name)
        assert found is not None
        return found

    async def states(self, lab: str = "web") -> dict[str, str]:
        return {node.name: str(node.state) for node in await self.inventory.nodes(lab)}

    async def seq(self) -> int:
        return await self.inventory.last_seq()

    async def story(self, after: int = 0) -> list[str]:
        """Return the events after a seq as short lines."""
        return [line(event) for event in await self.inventory.events(after, 10_000)]

    async def settled(self) -> None:
        """Return when the watcher has nothing more to do."""
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def check(self) -> None:
        """Assert that rows, processes, networks, files and events fit together."""
        await checks.check(self)

    async def check_nothing(self) -> None:
        """Assert that no trace of any lab is left."""
        await checks.check_nothing(self)


@asynccontextmanager
async def engine_over_fakes(
    root: Path,
    *,
    moment: Callable[[], Moment] = present_moment,
    path: Path = Path(":memory:"),
    keep_events: int = KEEP_EVENTS,
    **crash: Any,
) -> AsyncIterator[FakeDaemon]:
    """Start a daemon with an image `disk` (raw, 1 MiB).

    Args:
        root: Of its files.
        moment: Its clocks.
        path: Of its inventory.
        keep_events: How many it keeps of those that are published.
        crash: Where it dies; see `CrashPoint`.
    """
    inventory = await SqliteInventory.open(path, strict=True, keep_events=keep_events)
    it = FakeDaemon(inventory, root)
    it.path = path
    it.moment = moment
    try:
        async with inventory.transaction() as tx:
            await tx.put_image(image("disk"))
        await it.start(**crash)
        yield it
        if it.at_rest and not it.made_up and not it.crash.dead.is_set():
            await it.check()
        await it.close()
        said = [] if it.made_up else await it.inventory.events(0, 100_000)
        wrong = unpromised((e.draft.type, e.draft.data) for e in said)
        assert not wrong, wrong
    finally:
        await it.inventory.close()
