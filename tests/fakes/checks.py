"""What must hold of a `FakeDaemon` at any moment of rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.chaos.check import gaps
from bench.chaos.fold import fold
from labd.core.adapters import NODE_UIDS
from labd.drivers.network.linux.plan import plan
from labd.model.states import NODE_ALIVE, LabState
from tests.fakes.light import LIGHT
from tests.fakes.networks import (
    open_taps,
)

if TYPE_CHECKING:
    from tests.fakes.daemon import FakeDaemon

UID_BASE = 700_000  # first user id of a daemon over fakes


async def check(daemon: FakeDaemon) -> None:
    """Assert that rows, processes, networks, files and events fit together."""
    await daemon.idle()
    await daemon.filled()
    members = await daemon.inventory.pool_members()
    nodes = [*await daemon.inventory.nodes(), *(n for m in members for n in m.nodes)]
    alive = {node.key: node for node in nodes if node.state in NODE_ALIVE}
    machines = {**daemon.host.machines, **daemon.light.machines}
    assert set(machines) == set(alive)
    for key, node in alive.items():
        assert node.process == machines[key].process
        assert node.machine is not None
        has = machines[key].spec
        assert (key in daemon.light.machines) == (node.machine.kind == LIGHT)
        assert set(has.nics) == set(node.machine.nics)
        # Which files are under them may have changed since: a save gives each a new top.
        assert {disk.id for disk in has.disks} == {disk.id for disk in node.machine.disks}
    assert all(node.process is None for node in nodes if node.key not in alive)
    assert len({node.uid for node in nodes}) == len(nodes)
    assert all(UID_BASE <= node.uid < UID_BASE + NODE_UIDS for node in nodes)
    labs = {lab.name: lab for lab in await daemon.inventory.labs()}
    keys = {lab.key for lab in labs.values()} | {member.key for member in members}
    spaces = {f"labd-fake-{key}" for key in keys}
    assert set(daemon.networks.spaces) <= spaces
    for lab in labs.values():
        wanted = plan(lab.spec, lab.key, "fake", {})
        there = wanted.namespace in daemon.networks.spaces
        opened = daemon.uplinks.open.get(wanted.namespace)
        assert opened == (wanted.uplinks if there else None), lab.name
    assert set(daemon.uplinks.open) <= spaces
    assert set(daemon.servers.serving) <= set(daemon.networks.spaces)
    assert set(daemon.keys.pairs) <= keys
    for folder in (daemon.root / "state" / "nodes", daemon.root / "run" / "n"):
        left = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        assert left <= {node.key for node in nodes}
    assert open_taps() == []
    records = await daemon.inventory.checkpoints()
    assert set(daemon.checkpoints.kept) == {record.key for record in records}
    assert daemon.checkpoints.staged == {}
    events = [event.cloudevent() for event in await daemon.inventory.events(0, 100_000)]
    assert gaps(events) == []
    state, problems = fold(events)
    assert problems == []
    assert state.labs == {lab.name: lab.state for lab in labs.values()}
    # Of members of pools nothing is told: they are no labs yet.
    told = await daemon.inventory.nodes()
    assert state.nodes == {f"{node.lab}/{node.name}": node.state for node in told}
    for lab in labs.values():
        assert {node.name for node in nodes if node.lab == lab.name} == {
            node.name for node in lab.spec.nodes
        }
        assert lab.previous is None or lab.state is LabState.FAILED


async def check_nothing(daemon: FakeDaemon) -> None:
    """Assert that no trace of any lab is left."""
    await check(daemon)
    assert await daemon.inventory.labs() == []
    assert await daemon.inventory.nodes() == []
    assert await daemon.inventory.pool_members() == []
    assert daemon.host.machines == {}
    assert daemon.light.machines == {}
    assert daemon.networks.spaces == {}
    assert daemon.uplinks.open == {}
    assert daemon.servers.serving == {}
    assert daemon.published_ports.open_ports() == set()
    for folder in (daemon.root / "state" / "nodes", daemon.root / "run" / "n"):
        assert not folder.exists() or list(folder.iterdir()) == []
