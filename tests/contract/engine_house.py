"""A whole engine on fakes: a host, networks and images in memory, and the real inventory.

`House` is the machine that the daemon runs on. `start` and `restart` put a new engine on it; the
host's processes, the networks and the inventory outlive it. `Fate` kills a daemon at any call that
it makes of the world, as a power-off of the process would: nothing that it still does has an
effect.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.chaos.check import gaps
from bench.chaos.fold import fold
from labd.engine.engine import Engine
from labd.engine.ports import Transaction
from labd.engine.recovery import Recovered
from labd.engine.slots import BootSlots
from labd.engine.world import NODE_UIDS, Limits, World, present_moment
from labd.inventory.sqlite import SqliteInventory
from labd.model.errors import GuestFailed, NotFound, StorageFailed
from labd.model.events import Event
from labd.model.lab_leases import Moment
from labd.model.names import NodeRef
from labd.model.network import LabNetworkPlan, UplinkPlan
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.process import ProcessId
from labd.model.quotas import Quotas
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord
from labd.model.serving import (
    GuestInterface,
    Lease,
    Neighbour,
    ServerChange,
    ServerPlan,
    ServerState,
)
from labd.model.specs import (
    Dependency,
    DependsOn,
    Image,
    ImageFormat,
    LabSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    Readiness,
)
from labd.model.states import NODE_ALIVE, LabState, NodeState, OperationState, PluginState
from labd.model.units import GIB, MIB
from labd.model.usage import ProcessUsage
from labd.network.plan import plan
from tests.contract.fakes_checkpoints import FakeCheckpoints, FakeSnapshots
from tests.contract.fakes_devices import FakeDevices
from tests.contract.fakes_guests import FakeGuestFiles
from tests.contract.fakes_hypervisor import FakeHost, FakeHypervisor
from tests.contract.fakes_images import FakeImages
from tests.contract.fakes_networks import (
    FakeCaptures,
    FakeCarriers,
    FakeNetworks,
    FakeWires,
    open_taps,
)
from tests.contract.fakes_screens import FakeScreens
from tests.contract.fakes_usage import FakeCgroups, FakeCounters, FakeMemory
from tests.contract.fakes_ways import FakeDialer, FakeDoors, FakeKeys
from tests.event_contract import unpromised

UID_BASE = 700_000
K = OperationKind
LIMIT = 30.0  # seconds after which a test that waits has failed, on a host with other work


class FakeUplinks:
    """Implements the port `Uplinks`; `open` is namespace -> its plan."""

    def __init__(self) -> None:
        self.open: dict[str, UplinkPlan] = {}
        self.fail: dict[str, Exception] = {}

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    async def check(self, plan: LabNetworkPlan) -> None:
        self._may("check")

    async def apply(self, plan: LabNetworkPlan) -> None:
        self._may("apply")
        if plan.uplinks is None:
            self.open.pop(plan.namespace, None)
        else:
            self.open[plan.namespace] = plan.uplinks

    async def remove(self, namespace: str) -> None:
        self._may("remove")
        self.open.pop(namespace, None)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        self._may("sweep")
        gone = sorted(self.open.keys() - set(keep))
        for namespace in gone:
            del self.open[namespace]
        return gone


class FakeInterfaces:
    """Implements the port `Interfaces`; `told` is machine key -> interfaces."""

    def __init__(self) -> None:
        self.told: dict[str, list[GuestInterface]] = {}
        self.hangs: set[str] = set()

    async def interfaces(self, key: str, timeout: float) -> Sequence[GuestInterface]:
        if key in self.hangs:
            await asyncio.sleep(timeout)
        if key not in self.told:
            raise GuestFailed("the guest has no agent")
        return self.told[key]


class FakeServers:
    """Implements the port `Servers`; `serving` is namespace -> plan, and outlives the daemon."""

    def __init__(self) -> None:
        self.serving: dict[str, ServerPlan] = {}
        self.given: dict[str, list[Lease]] = {}
        self.seen: dict[str, list[Neighbour]] = {}
        self.fail: dict[str, Exception] = {}
        self.tell: Callable[[ServerChange], None] = lambda _: None

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    def listen(self, listener: Callable[[ServerChange], None]) -> None:
        self.tell = listener

    async def check(self, plan: LabNetworkPlan) -> None:
        self._may("check")

    async def apply(self, plan: LabNetworkPlan) -> None:
        self._may("apply")
        if plan.server is None:
            self.serving.pop(plan.namespace, None)
            return
        self.serving[plan.namespace] = plan.server
        self.happen(plan.namespace, ServerState.LEASES)

    async def remove(self, namespace: str) -> None:
        self._may("remove")
        self.serving.pop(namespace, None)
        self.given.pop(namespace, None)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        gone = sorted(self.serving.keys() - set(keep))
        for namespace in gone:
            del self.serving[namespace]
        return gone

    async def leases(self, namespace: str) -> Sequence[Lease]:
        return list(self.given.get(namespace, []))

    async def neighbours(self, namespace: str) -> Sequence[Neighbour]:
        return list(self.seen.get(namespace, []))

    async def close(self) -> None:
        self.tell = lambda _: None

    def happen(self, namespace: str, state: ServerState, reason: str = "") -> None:
        self.tell(ServerChange(namespace=namespace, state=state, reason=reason))


class FakePlugins:
    """Implements the port `PluginRunner`; `running` is name -> (settings, uid)."""

    def __init__(self) -> None:
        self.plugins = {"hook": InstalledPlugin(name="hook", version="1")}
        self.running: dict[str, tuple[Mapping[str, object], int]] = {}
        self.told: Callable[[PluginChange], None] = lambda _: None

    def listen(self, listener: Callable[[PluginChange], None]) -> None:
        self.told = listener

    def installed(self) -> Sequence[InstalledPlugin]:
        return list(self.plugins.values())

    def check_settings(self, name: str, settings: Mapping[str, object]) -> Mapping[str, object]:
        if name not in self.plugins:
            raise NotFound(f"there is no plugin {name}")
        return {"url": "http://localhost", **settings}

    async def start(
        self, name: str, settings: Mapping[str, object], uid: int, since: int | None = None
    ) -> None:
        await asyncio.sleep(0)
        self.running[name] = (settings, uid)
        self.told(PluginChange(name=name, state=PluginState.RUNNING))

    async def stop(self, name: str) -> None:
        await asyncio.sleep(0)
        self.running.pop(name, None)

    def state(self, name: str) -> tuple[PluginState, int]:
        return (PluginState.RUNNING if name in self.running else PluginState.DISABLED), 0

    def log(self, name: str) -> bytes:
        return b"said\n"

    async def close(self) -> None:
        self.running.clear()


class Fate:
    """Counts what a daemon asks of the world, and ends it at one of these calls.

    Attributes:
        dead: Nothing that the daemon asks has an effect any more.
        calls: What it asked so far.
        at: Dies at the call of this number.
        before: Dies before that call has its effect, otherwise after it.
        name: Dies at the first call of this name instead.
    """

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.calls: list[str] = []
        self.at = 0
        self.before = True
        self.name = ""

    def check(self, *, after: bool = False) -> None:
        last = self.calls[-1] if self.calls else ""
        # Others may have asked meanwhile, where several things are done at one time.
        due = 0 < self.at <= len(self.calls) or (bool(self.name) and last == self.name)
        if due and self.before is not after:
            self.dead.set()
        if self.dead.is_set():
            raise StorageFailed("the daemon is dead")

    def called(self, name: str) -> None:
        self.calls.append(name)
        self.check()


class Mortal:
    """A port whose calls fail once the daemon is dead."""

    def __init__(self, target: Any, fate: Fate, names: set[str]) -> None:
        self._target = target
        self._fate = fate
        self._names = names

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name not in self._names:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._fate.called(name)
            result = await method(*args, **kwargs)
            self._fate.check(after=True)
            return result

        return call


class MortalInventory(Mortal):
    """An inventory that commits nothing more for a dead daemon."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._target.transaction() as tx:
            yield tx
            self._fate.called("commit")
        self._fate.check(after=True)


# What each process of a `FakeHost` has taken.
USED = ProcessUsage(cpu=1.5, own=40 << 20, shared=80 << 20, written=4096)

_ASKED = {
    "hypervisor": {"launch", "resume", "kill", "kill_process", "forget", "power_down", "adopt"},
    "networks": {"apply", "open_taps", "remove"},
    "devices": {"plug_disk", "unplug_disk", "plug_nic", "unplug_nic", "change_medium"},
    "uplinks": {"apply", "remove"},
    "servers": {"apply", "remove"},
    "wires": {"apply"},
    "carriers": {"set_carrier"},
    "images": {"make_overlay", "make_blank", "make_child", "discard", "sweep"},
    "keys": {"ensure", "remove"},
    "snapshots": {
        "save",
        "put_back",
        "launch",
        "loaded",
        "announce",
        "set_clock",
        "authorize",
    },
    "checkpoints": {"stage", "absorb", "publish", "incoming", "discard", "sweep"},
}


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


class House:
    """The machine, and the daemon that runs on it now."""

    engine: Engine
    hypervisor: FakeHypervisor
    snapshots: FakeSnapshots
    fate: Fate

    def __init__(self, inventory: SqliteInventory, root: Path) -> None:
        self.host = FakeHost()
        self.networks = FakeNetworks()
        self.uplinks = FakeUplinks()
        self.servers = FakeServers()
        self.interfaces = FakeInterfaces()
        self.wires = FakeWires(self.networks)
        self.captures = FakeCaptures()
        self.images = FakeImages(root / "images")
        self.checkpoints = FakeCheckpoints(root / "checkpoints")
        self.plugins = FakePlugins()
        self.keys = FakeKeys()
        self.dialer = FakeDialer()
        self.doors = FakeDoors()
        self.counters = FakeCounters()
        self.inventory = inventory
        self.root = root
        self.memory = 64 * GIB
        self.own_memory = 0  # of each process
        self.slots = 8
        self.pressure = FakeMemory(self._lives)
        self.cgroups = FakeCgroups(self._lives)
        self.quotas = Quotas()
        self.written = 0  # bytes that the folder of each node takes
        self.moment = present_moment

    def _lives(self, process: ProcessId) -> bool:
        return process in {machine.process for machine in self.host.machines.values()}

    async def start(self, **fate: Any) -> Recovered:
        """Start a daemon. `fate` is set on its `Fate`."""
        self.fate = Fate()
        for key, value in fate.items():
            setattr(self.fate, key, value)
        self.hypervisor = FakeHypervisor(self.host)
        self.snapshots = FakeSnapshots(self.host, self.hypervisor)
        self.doors.daemon_ended()

        def mortal(target: Any, kind: str) -> Any:
            return Mortal(target, self.fate, _ASKED[kind])

        inventory: Any = MortalInventory(self.inventory, self.fate, set())
        world = World(
            inventory=inventory,
            hypervisor=mortal(self.hypervisor, "hypervisor"),
            networks=mortal(self.networks, "networks"),
            uplinks=mortal(self.uplinks, "uplinks"),
            servers=mortal(self.servers, "servers"),
            wires=mortal(self.wires, "wires"),
            captures=self.captures,
            memory=self.pressure,
            counters=self.counters,
            cgroups=self.cgroups,
            carriers=mortal(FakeCarriers(self.host), "carriers"),
            images=mortal(self.images, "images"),
            snapshots=mortal(self.snapshots, "snapshots"),
            checkpoints=mortal(self.checkpoints, "checkpoints"),
            screens=FakeScreens(self.host),
            devices=mortal(FakeDevices(self.host), "devices"),
            interfaces=self.interfaces,
            guest_files=FakeGuestFiles(self.host),
            dialer=self.dialer,
            doors=self.doors,
            keys=mortal(self.keys, "keys"),
            state=self.root / "state",
            run=self.root / "run",
            limits=Limits(
                uid_base=UID_BASE,
                memory_reserve=GIB,
                quotas=self.quotas,
                stall=40,
            ),
            plan_network=lambda spec, key, keys: plan(spec, key, "fake", keys),
            memory_available=lambda: self.memory,
            own_memory=lambda _: self.own_memory,
            process_usage=lambda _: USED,
            folder_size=lambda _: self.written,
            memory_total=64 * GIB,
            moment=self.moment,
            booting=BootSlots(self.slots),
        )

        async def findings() -> Sequence[Mapping[str, str]]:
            return []

        self.engine = Engine(world, self.plugins, findings=findings, info=dict)
        return await self.engine.start()

    async def kill_daemon(self) -> None:
        """End the daemon as SIGKILL does."""
        self.fate.dead.set()
        self.host.daemon = None
        with suppress(StorageFailed):
            await self.engine.close()
        for tap in open_taps():
            os.close(tap)

    async def restart(self, **fate: Any) -> Recovered:
        """Kill the daemon, and start another one."""
        await self.kill_daemon()
        return await self.start(**fate)

    async def close(self) -> None:
        """Stop the daemon as SIGTERM does."""
        await self.engine.close()

    # asking

    async def ended_or_dead(self, operation: str) -> None:
        """Wait for the end of an operation, or of the daemon (which cannot write it then)."""
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self.engine.wait_operation(operation, LIMIT)),
            asyncio.create_task(self.fate.dead.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def death(self) -> None:
        """Wait until the daemon has died, as its `Fate` has it."""
        async with asyncio.timeout(LIMIT):
            await self.fate.dead.wait()

    async def done(self, asked: Awaitable[OperationRecord]) -> OperationRecord:
        """Return an operation when it has ended."""
        operation = await asked
        async with asyncio.timeout(LIMIT):
            operation = await self.engine.wait_operation(operation.id, LIMIT)
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

    async def up(self, spec: LabSpec, name: str = "web", **how: Any) -> OperationRecord:
        return await self.ok(self.engine.up(name, spec, **how))

    async def act(self, kind: K, *nodes: str, **how: Any) -> OperationRecord:
        return await self.ok(self.engine.act(kind, "web", nodes, **how))

    async def idle(self) -> None:
        """Return when no operation runs."""
        async with asyncio.timeout(LIMIT):
            while running := await self.inventory.operations(running=True):
                for operation in running:
                    await self.engine.wait_operation(operation.id, LIMIT)
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
            found = await self.engine.journal.wait_node(NodeRef(lab, node), states)
        assert found is not None
        return found

    async def key(self, node: str, lab: str = "web") -> str:
        return (await self.engine.node(NodeRef(lab, node))).key

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

    # what must hold at any moment of rest

    async def check(self) -> None:
        """Assert that rows, processes, networks, files and events fit together."""
        await self.idle()
        await self.filled()
        members = await self.inventory.pool_members()
        nodes = [*await self.inventory.nodes(), *(n for m in members for n in m.nodes)]
        alive = {node.key: node for node in nodes if node.state in NODE_ALIVE}
        assert set(self.host.machines) == set(alive)
        for key, node in alive.items():
            assert node.process == self.host.machines[key].process
            assert node.machine is not None
            has = self.host.machines[key].spec
            assert set(has.nics) == set(node.machine.nics)
            # Which files are under them may have changed since: a save gives each a new top.
            assert {disk.id for disk in has.disks} == {disk.id for disk in node.machine.disks}
        assert all(node.process is None for node in nodes if node.key not in alive)
        assert len({node.uid for node in nodes}) == len(nodes)
        assert all(UID_BASE <= node.uid < UID_BASE + NODE_UIDS for node in nodes)
        labs = {lab.name: lab for lab in await self.inventory.labs()}
        keys = {lab.key for lab in labs.values()} | {member.key for member in members}
        spaces = {f"labd-fake-{key}" for key in keys}
        assert set(self.networks.spaces) <= spaces
        for lab in labs.values():
            wanted = plan(lab.spec, lab.key, "fake", {})
            there = wanted.namespace in self.networks.spaces
            opened = self.uplinks.open.get(wanted.namespace)
            assert opened == (wanted.uplinks if there else None), lab.name
        assert set(self.uplinks.open) <= spaces
        assert set(self.servers.serving) <= set(self.networks.spaces)
        assert set(self.keys.pairs) <= keys
        for folder in (self.root / "state" / "nodes", self.root / "run" / "n"):
            left = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
            assert left <= {node.key for node in nodes}
        assert open_taps() == []
        records = await self.inventory.checkpoints()
        assert set(self.checkpoints.kept) == {record.key for record in records}
        assert self.checkpoints.staged == {}
        events = [event.cloudevent() for event in await self.inventory.events(0, 100_000)]
        assert gaps(events) == []
        state, problems = fold(events)
        assert problems == []
        assert state.labs == {lab.name: lab.state for lab in labs.values()}
        # Of members of pools nothing is told: they are no labs yet.
        told = await self.inventory.nodes()
        assert state.nodes == {f"{node.lab}/{node.name}": node.state for node in told}
        for lab in labs.values():
            assert {node.name for node in nodes if node.lab == lab.name} == {
                node.name for node in lab.spec.nodes
            }
            assert lab.previous is None or lab.state is LabState.FAILED

    async def check_nothing(self) -> None:
        """Assert that no trace of any lab is left."""
        await self.check()
        assert await self.inventory.labs() == []
        assert await self.inventory.nodes() == []
        assert await self.inventory.pool_members() == []
        assert self.host.machines == {}
        assert self.networks.spaces == {}
        assert self.uplinks.open == {}
        assert self.servers.serving == {}
        assert self.doors.open_ports() == set()
        for folder in (self.root / "state" / "nodes", self.root / "run" / "n"):
            assert not folder.exists() or list(folder.iterdir()) == []


def line(event: Event) -> str:
    """Return an event as a short line."""
    happening = event.happening
    words = [str(happening.type), happening.node or happening.subject]
    if happening.type == "lab.state":
        words.append(f"{happening.data['from']}>{happening.data['to']}")
    if happening.type.startswith("operation."):
        words.append(str(happening.data["kind"]))
    return " ".join(filter(None, words))


@asynccontextmanager
async def house(
    root: Path, *, moment: Callable[[], Moment] = present_moment, **fate: Any
) -> AsyncIterator[House]:
    """Give a house with a daemon and an image `disk` (raw, 1 MiB)."""
    inventory = await SqliteInventory.open(Path(":memory:"))
    it = House(inventory, root)
    it.moment = moment
    try:
        async with inventory.transaction() as tx:
            await tx.put_image(image("disk"))
        await it.start(**fate)
        yield it
        if not it.fate.dead.is_set():
            await it.check()
        await it.close()
        said = await inventory.events(0, 100_000)
        wrong = unpromised((e.happening.type, e.happening.data) for e in said)
        assert not wrong, wrong
    finally:
        await inventory.close()


def image(name: str, digest: str = "") -> Image:
    return Image(
        name=name,
        format=ImageFormat.RAW,
        digest=f"sha256:{digest or name.encode().hex():0<64}",
        size=MIB,
        virtual_size=MIB,
        files=("disk",),
    )


def node(name: str, *needs: str, **fields: Any) -> NodeSpec:
    """Return a node that is ready when it says `guest: up`; `needs` are `NODE` or `NODE:ready`."""
    fields.setdefault("ready", Readiness(console="guest: up", timeout=LIMIT))
    fields.setdefault("nics", (NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01"),))
    depends = []
    for need in needs:
        other, _, condition = need.partition(":")
        depends.append(Dependency(node=other, condition=DependsOn(condition or "ready")))
    return NodeSpec(name=name, image="disk", memory=128 * MIB, depends_on=tuple(depends), **fields)


def spec(*nodes: NodeSpec, networks: tuple[str, ...] = ("lan",)) -> LabSpec:
    return LabSpec(
        template="t", nodes=nodes, networks=tuple(NetworkSpec(name=name) for name in networks)
    )
