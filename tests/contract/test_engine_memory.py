"""A host that is short of memory, and labs that want too much, on an engine with fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.features.labs.edit_views import NewNode
from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.errors import OverQuota
from labd.model.memory import MemoryReading
from labd.model.names import NodeRef
from labd.model.quotas import Quotas
from labd.model.records import OperationKind as K
from labd.model.specs import DiskSpec, LabSpec, Readiness
from labd.model.states import NodeState
from labd.model.units import GIB, MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

LAB = spec(node("a"), node("b"))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def see(home: FakeDaemon, available: int, now: float) -> None:
    """Let the daemon look when so much is available; its marks are 512 MiB and 1 GiB."""
    home.pressure.reading = MemoryReading(total=64 * GIB, available=available)
    await home.engine.memory_guard.tick(now)


async def three_labs(home: FakeDaemon) -> None:
    for name in ("old", "web", "new"):
        await home.up(LAB, name)


async def test_the_newest_lab_is_paused_as_a_whole_and_told(home: FakeDaemon) -> None:
    await three_labs(home)
    seq = await home.seq()
    await see(home, 600 * MIB, 1.0)
    assert await home.seq() == seq
    await see(home, 400 * MIB, 2.0)
    assert await home.states("new") == {"a": "paused", "b": "paused"}
    assert await home.states("web") == await home.states("old") == {"a": "ready", "b": "ready"}
    events = await home.inventory.events(seq)
    told = [event.draft for event in events]
    assert told[0].type == "host.memory-low"
    assert told[0].data["available"] == 400 * MIB
    paused = next(item for item in told if item.type == "lab.paused")
    assert (paused.lab, paused.data["cause"]) == ("new", "memory-pressure")
    assert paused.data["nodes"] == ["a", "b"]
    reason = (await home.engine.console.node(NodeRef("new", "a"))).reason
    assert reason.startswith("the host is short of memory (400 MiB available)")
    assert (await home.engine.usage.look()).host.memory_low
    # It does not fall any more: nobody else is paused. It falls: the next one is.
    await see(home, 390 * MIB, 3.0)
    assert await home.states("web") == {"a": "ready", "b": "ready"}
    await see(home, 300 * MIB, 4.0)
    assert await home.states("web") == {"a": "paused", "b": "paused"}
    await see(home, 2 * GIB, 5.0)
    assert (await home.story(seq))[-1] == "host.memory-ok"
    # Nothing goes on by itself.
    assert await home.states("new") == {"a": "paused", "b": "paused"}
    await home.ok(home.engine.labs.act(K.RESUME, "new"))
    node = await home.until("a", NodeState.READY, lab="new")
    assert node.reason == ""


async def test_what_can_be_given_back_is_before_a_lab_is_paused(home: FakeDaemon) -> None:
    await three_labs(home)
    pool = ["two", "one"]

    async def fails() -> str:
        raise OverQuota("it cannot")

    async def give() -> str:
        return f"{pool.pop()} was given back" if pool else ""

    home.engine.memory_guard.reliefs += [fails, give]
    await see(home, 400 * MIB, 1.0)
    await see(home, 300 * MIB, 2.0)
    assert pool == []
    assert await home.states("new") == {"a": "ready", "b": "ready"}
    await see(home, 200 * MIB, 3.0)
    assert await home.states("new") == {"a": "paused", "b": "paused"}


async def test_a_lab_that_is_starting_is_paused_and_a_qemu_that_hangs_holds_nothing_up(
    home: FakeDaemon,
) -> None:
    await home.up(LAB, "old")
    never = Readiness(console="never said", timeout=LIMIT)
    asked = await home.engine.labs.up("new", spec(node("a", ready=never), node("b")))
    await home.until("a", NodeState.RUNNING, lab="new")
    await home.until("b", NodeState.READY, lab="new")
    await see(home, 400 * MIB, 1.0)
    assert await home.states("new") == {"a": "paused", "b": "paused"}
    assert (await home.engine.operations.wait(asked.id, LIMIT)).state == "succeeded"
    hung = await home.key("a", lab="old")
    home.host.machines[hung].hung = True
    await see(home, 100 * MIB, 2.0)
    assert (await home.states("old"))["b"] == "paused"
    home.host.machines[hung].hung = False


async def test_a_lab_that_is_being_saved_is_left_alone(home: FakeDaemon) -> None:
    await home.up(LAB, "old")
    await home.up(LAB, "new")
    home.snapshots.gate.clear()
    saving = home.engine.checkpoints.save("new", "c", mode=SaveMode.LIVE, message="")
    operation = await saving
    await see(home, 400 * MIB, 1.0)
    assert await home.states("new") == {"a": "ready", "b": "ready"}
    assert await home.states("old") == {"a": "paused", "b": "paused"}
    home.snapshots.gate.set()
    assert (await home.engine.operations.wait(operation.id, LIMIT)).state == "succeeded"


async def test_the_kernel_is_told_whom_to_kill_first(home: FakeDaemon) -> None:
    await three_labs(home)
    await home.engine.memory_guard.tick()

    async def score(lab: str) -> int:
        process = (await home.engine.console.node(NodeRef(lab, "a"))).process
        assert process is not None
        return home.pressure.scores[process]

    assert [await score(lab) for lab in ("old", "web", "new")] == [300, 600, 900]
    # The next daemon says it again.
    home.pressure.scores.clear()
    await home.restart()
    await home.engine.memory_guard.tick()
    assert await score("new") == 900


async def test_a_lab_that_wants_too_much_is_refused_with_the_numbers(home: FakeDaemon) -> None:
    await home.up(LAB)
    await home.ok(home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
    home.quotas = Quotas(nodes=2, vcpus=2, memory=256 * MIB, disk=3 * MIB)
    await home.restart()
    seq = await home.seq()

    async def refused(text: str, asked: object) -> None:
        with pytest.raises(OverQuota, match=text):
            await asked  # type: ignore[misc]

    big = replace(LAB, nodes=(*LAB.nodes, node("c", vcpus=3)))
    said = (
        "lab big asks for 3 nodes where 2 are allowed and 5 vCPUs where 2 are allowed and "
        "384 MiB of memory where 256 MiB is allowed; make it smaller, or have the administrator"
    )
    await refused(said, home.engine.labs.up("big", big))
    await refused("lab big asks for", home.engine.labs.plan("big", big))
    disk = replace(LAB.nodes[0], disks=(DiskSpec(name="d", size=2 * MIB),))
    await refused(
        "4 MiB of disk where 3 MiB is allowed",
        home.engine.labs.up(
            "x", LabSpec(template="t", nodes=(disk, LAB.nodes[1]), networks=LAB.networks)
        ),
    )
    edits = home.engine.edits
    await refused("4 MiB of disk", edits.attach_disk(NodeRef("web", "a"), "d", 2 * MIB, None))
    await refused("3 nodes", edits.add_node("web", NewNode(name="c", image="disk")))
    assert await home.seq() == seq
    home.quotas = Quotas(nodes=1)
    await home.restart()
    seq = await home.seq()
    fork = home.engine.checkpoints.fork("c", "copy", count=0, settings={})
    await refused("lab of checkpoint c asks for 2 nodes where 1 is allowed", fork)
    ann = [Student(name="ann")]
    for source in ("c", LAB):
        start = home.engine.classes.start("k", source, ann, settings={})
        await refused("asks for 2 nodes where 1 is allowed", start)
    await refused("of checkpoint c asks for 2 nodes", home.engine.checkpoints.restore("web", "c"))
    await refused("lab web asks for 2 nodes", home.engine.labs.act(K.RESTART, "web"))
    assert await home.seq() == seq
    await home.act(K.DOWN, force=True)


async def test_a_lab_whose_disks_have_outgrown_their_quota_is_paused(home: FakeDaemon) -> None:
    home.quotas = Quotas(written=10 * MIB)
    await home.restart()
    await home.up(LAB)
    home.written = 5 * MIB
    await home.engine.disk_guard.tick()
    assert await home.states() == {"a": "ready", "b": "ready"}
    home.written = 6 * MIB
    await home.engine.disk_guard.tick()
    assert await home.states() == {"a": "paused", "b": "paused"}
    told = [event.draft for event in await home.inventory.events(0, 10_000)][-1]
    assert (told.type, told.data["cause"]) == ("lab.paused", "disk-quota")
    assert (told.data["written"], told.data["allowed"]) == (12 * MIB, 10 * MIB)
    # A person lets it go on, and it has not become smaller.
    await home.act(K.RESUME)
    await home.until("a", NodeState.READY)
    await home.engine.disk_guard.tick()
    assert await home.states() == {"a": "paused", "b": "paused"}


async def test_machines_are_held_in_groups_also_by_the_next_daemon(home: FakeDaemon) -> None:
    await three_labs(home)
    groups = {
        name: {f"{(await home.lab(name)).key}/{await home.key(node, name)}" for node in "ab"}
        for name in ("old", "web", "new")
    }

    async def held(wanted: set[str]) -> None:
        async with asyncio.timeout(LIMIT):
            while set(home.cgroups.held) != wanted:
                await asyncio.sleep(0.01)

    await held(groups["old"] | groups["web"] | groups["new"])
    await home.ok(home.engine.labs.act(K.DESTROY, "old"))
    await home.ok(home.engine.labs.act(K.DOWN, "web", force=True))
    left = groups["new"]
    await held(left)
    # What a dead daemon left undone, the next one finds and does.
    home.cgroups.held.clear()
    await home.restart()
    await held(left)
    assert await home.engine.cgroup_controller.check(repair=False) == []


async def test_groups_are_gone_through_again_where_something_is_new_or_went_wrong(
    home: FakeDaemon,
) -> None:
    await home.up(LAB)
    cgroup_controller, cgroups = home.engine.cgroup_controller, home.cgroups
    await cgroup_controller.tick()
    found = dict(cgroups.held)
    cgroups.held.clear()
    await cgroup_controller.look()
    assert cgroups.held == {}, "the same machines live as before"
    cgroups.problems = ["no room"]
    await cgroup_controller.tick()
    cgroups.problems = []
    cgroups.held.clear()
    await cgroup_controller.look()
    assert cgroups.held == found, "it is tried again"
    await home.act(K.DOWN, force=True)
    await cgroup_controller.look()
    assert cgroups.held == {}


async def test_fsck_tells_groups_of_nobody_and_machines_in_none(home: FakeDaemon) -> None:
    await home.up(LAB)
    await asyncio.sleep(0.5)  # the daemon looks a last time at what has just changed
    name, inside = home.cgroups.held.popitem()
    home.cgroups.held["gone/gone"] = inside
    kinds = {item.kind: item.name for item in await home.engine.cgroup_controller.differences()}
    assert kinds == {"orphan-cgroup": "gone/gone", "lost-cgroup": name.split("/")[1]}
    repaired = await home.engine.cgroup_controller.check(repair=True)
    assert {(item.kind, item.repaired) for item in repaired} == {
        ("lost-cgroup", True),
        ("orphan-cgroup", True),
    }
