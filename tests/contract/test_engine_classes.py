"""Classes on an engine with fakes: what is made, what fails alone, and what outlives the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.errors import Conflict, InputError, NoRoom, NotFound
from labd.model.lab_leases import LeaseAsk
from labd.model.machine import ExecResult
from labd.model.records import OperationKind, OperationRecord
from labd.model.units import GIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        await it.up(spec(node("a")))
        await it.ok(it.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
        yield it


async def start(home: FakeDaemon, *names: str, lease: LeaseAsk | None = None) -> None:
    students = [Student(name=name) for name in names]
    await home.engine.classes.start("x", "c", students, settings={}, lease=lease)


async def ready(home: FakeDaemon) -> Mapping[str, str]:
    """Return the states of the labs when every student was served."""
    async with asyncio.timeout(10):
        while not (await home.engine.classes.get("x")).record.told:
            await asyncio.sleep(0.05)
    return (await home.engine.classes.get("x")).states


async def gone(home: FakeDaemon) -> None:
    await home.engine.classes.destroy("x")
    async with asyncio.timeout(10):
        while await home.inventory.classes():
            await asyncio.sleep(0.05)


async def labs(home: FakeDaemon) -> list[str]:
    return [lab.name for lab in await home.inventory.labs()]


async def test_a_class_from_start_to_end(home: FakeDaemon) -> None:
    seq = await home.seq()
    await start(home, "ann", "bob", lease=LeaseAsk(seconds=60))
    assert await ready(home) == {"ann": "running", "bob": "running"}
    assert await labs(home) == ["web", "x-ann", "x-bob"]
    assert [view.lease.lab for view in await home.engine.leases.all()] == ["x-ann", "x-bob"]
    await home.engine.classes.extend("x", 3600)
    assert all(view.left > 3600 for view in await home.engine.leases.all())
    with pytest.raises(InputError, match="366 days"):
        await home.engine.classes.extend("x", 366 * 86400)
    await gone(home)
    assert await labs(home) == ["web"]
    told = [line for line in await home.story(seq) if line.startswith("class.")]
    assert told == ["class.started x", "class.ready x", "class.destroying x", "class.destroyed x"]


async def test_asked_again_it_serves_who_has_none(home: FakeDaemon) -> None:
    await start(home, "ann")
    await ready(home)
    key = (await home.lab("x-ann")).key
    await start(home, "ann", "bob")
    assert await ready(home) == {"ann": "running", "bob": "running"}
    assert (await home.lab("x-ann")).key == key
    await home.ok(home.engine.labs.act(K.DESTROY, "x-ann"))
    assert (await home.engine.classes.get("x")).states["ann"] == "gone"
    await start(home, "ann")
    assert await ready(home) == {"ann": "running", "bob": "running"}


async def test_a_stopped_class(home: FakeDaemon) -> None:
    await start(home, "ann", "bob")
    await ready(home)
    with pytest.raises(Conflict, match="no lab of class x has a lease"):
        await home.engine.classes.extend("x", 60)
    await home.engine.classes.stop("x")
    async with asyncio.timeout(10):
        while not (await home.engine.classes.get("x")).record.told:
            await asyncio.sleep(0.05)
    found = await home.engine.classes.get("x")
    assert set(found.states.values()) == {"stopped"}
    with pytest.raises(Conflict, match="class x is stopped; start it again with `lab class start`"):
        await home.engine.classes.add("x", [Student(name="eve")])
    # What a person starts again is left alone.
    await home.ok(home.engine.labs.act(K.START, "x-ann"))
    await home.engine.classes.tick()
    await home.idle()
    assert (await home.engine.classes.get("x")).states == {"ann": "running", "bob": "stopped"}
    await gone(home)


async def test_a_stopped_class_is_started_again(home: FakeDaemon) -> None:
    await start(home, "ann", "bob", "eve")
    await ready(home)
    keys = {name: (await home.lab(f"x-{name}")).key for name in ("ann", "bob", "eve")}
    await home.engine.classes.stop("x")
    await ready(home)
    await home.ok(home.engine.labs.act(K.DESTROY, "x-eve"))
    home.memory = 2 * GIB  # of which 1 is kept
    too_many = [f"s{number}" for number in range(40)]
    with pytest.raises(NoRoom, match="class x does not fit"):
        await start(home, *too_many)
    home.memory = GIB + (300 << 20)
    with pytest.raises(NoRoom, match="each of its 2 labs may need .* enough for 1;"):
        await start(home, "ann", "bob")
    found = await home.engine.classes.get("x")
    assert found.states == {"ann": "stopped", "bob": "stopped", "eve": "gone"}
    home.memory = 64 * GIB
    await start(home, "ann", "bob", "eve", "dan")
    await home.restart()
    assert await ready(home) == dict.fromkeys(("ann", "bob", "eve", "dan"), "running")
    assert {name: (await home.lab(f"x-{name}")).key for name in ("ann", "bob")} == {
        name: keys[name] for name in ("ann", "bob")
    }
    # Once: a student who stops it means it.
    await home.ok(home.engine.labs.act(K.DOWN, "x-ann"))
    await home.engine.classes.tick()
    await home.idle()
    assert (await home.engine.classes.get("x")).states["ann"] == "stopped"
    await gone(home)


async def test_a_lab_that_cannot_be_started_again_is_told_and_harms_no_other(
    home: FakeDaemon,
) -> None:
    await start(home, "ann", "bob")
    await ready(home)
    await home.engine.classes.stop("x")
    await ready(home)
    first = await home.inventory.node("x-ann", "a")
    assert first is not None
    home.host.fail_launch[first.key] = "no luck"
    seq = await home.seq()
    await start(home, "ann", "bob")
    states = await ready(home)
    assert states["bob"] == "running"
    assert states["ann"] != "running"
    assert "no luck" in (await home.engine.classes.get("x")).record.failed["ann"]
    assert "class.student-failed x" in await home.story(seq)
    await gone(home)


async def test_no_memory_is_given_twice(home: FakeDaemon) -> None:
    home.memory = GIB + (320 << 20)  # of which 1 is kept; ten labs of 32 MiB fit
    names = [f"s{number}" for number in range(6)]
    home.snapshots.slow = {f"x-{name}": asyncio.Event() for name in names}
    await start(home, *names)
    others = [Student(name=f"s{number}") for number in range(5)]
    with pytest.raises(NoRoom, match="class y does not fit.* enough for 3;"):
        await home.engine.classes.start("y", "c", others, settings={})
    async with asyncio.timeout(10):
        while len(await labs(home)) < 1 + 4:
            await asyncio.sleep(0.01)
    with pytest.raises(NoRoom, match="class y does not fit.* enough for 3;"):
        await home.engine.classes.start("y", "c", others, settings={})
    with pytest.raises(NoRoom, match="enough for 5"):  # four of x are being loaded
        await home.engine.checkpoints.fork("c", "z", count=7, settings={})
    for gate in home.snapshots.slow.values():
        gate.set()
    await ready(home)
    await gone(home)


async def test_a_restarted_daemon_goes_on(home: FakeDaemon) -> None:
    await start(home, "ann", "bob", "eve")
    await asyncio.sleep(0)
    await home.restart()
    assert set((await ready(home)).values()) == {"running"}
    await home.engine.classes.destroy("x")
    await home.restart()
    await gone_without_asking(home)


async def gone_without_asking(home: FakeDaemon) -> None:
    async with asyncio.timeout(10):
        while await home.inventory.classes():
            await asyncio.sleep(0.05)
    assert await labs(home) == ["web"]


async def test_what_is_refused_changes_nothing(home: FakeDaemon) -> None:
    with pytest.raises(InputError, match="student ann is on the roster twice"):
        await start(home, "ann", "ann")
    with pytest.raises(InputError, match="student name"):
        await start(home, "../x")
    with pytest.raises(NotFound):
        await home.engine.classes.start("x", "none", [Student(name="a")], settings={})
    with pytest.raises(InputError, match="in the past"):
        await start(home, "ann", lease=LeaseAsk(seconds=0))
    home.memory = GIB + (40 << 20)
    with pytest.raises(NoRoom, match="class x does not fit"):
        await start(home, *(f"s{n}" for n in range(30)))
    home.memory = 64 * GIB
    await home.up(spec(node("a")), "x-bob")
    with pytest.raises(Conflict, match="there is a lab x-bob already"):
        await start(home, "ann", "bob")
    assert await home.inventory.classes() == []
    assert await labs(home) == ["web", "x-bob"]


async def from_template(home: FakeDaemon, *names: str, queue: bool = False) -> None:
    students = [Student(name=name) for name in names]
    await home.engine.classes.start("x", spec(node("a")), students, settings={}, queue=queue)


async def test_a_class_from_a_template_has_a_first_copy(home: FakeDaemon) -> None:
    await from_template(home, "ann", "bob")
    assert await ready(home) == {"ann": "running", "bob": "running"}
    record = (await home.engine.classes.get("x")).record
    view = await home.engine.checkpoints.get("x")
    assert (view.record.key, view.record.message) == (
        record.checkpoint,
        "the first copy of class x",
    )
    await until_labs(home, ["web", "x-ann", "x-bob"])

    await from_template(home, "ann", "bob")  # asked again: nothing is booted
    await home.engine.classes.add("x", [Student(name="eve", settings={"seat": "3"})])
    assert await ready(home) == {"ann": "running", "bob": "running", "eve": "running"}
    assert (await home.engine.classes.get("x")).record.checkpoint == record.checkpoint

    await gone(home)
    assert [view.record.name for view in await home.engine.checkpoints.all()] == ["c"]
    assert await labs(home) == ["web"]


async def until_labs(home: FakeDaemon, names: list[str]) -> None:
    async with asyncio.timeout(10):
        while await labs(home) != names:
            await asyncio.sleep(0.05)


async def test_the_checkpoint_of_a_class_stays_for_others_that_stand_on_it(
    home: FakeDaemon,
) -> None:
    await from_template(home, "ann")
    await ready(home)
    await home.ok(first(await home.engine.checkpoints.fork("x", "mine", count=0, settings={})))
    await gone(home)
    assert [view.record.name for view in await home.engine.checkpoints.all()] == ["c", "x"]


async def first(operations: Sequence[OperationRecord]) -> OperationRecord:
    return operations[0]


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.5, 0.6, 0.8, 1.0, 1.2])
async def test_a_daemon_that_dies_makes_one_first_copy(home: FakeDaemon, seconds: float) -> None:
    await from_template(home, "ann", "bob")
    await asyncio.sleep(seconds)
    await home.restart()
    assert set((await ready(home)).values()) == {"running"}
    await until_labs(home, ["web", "x-ann", "x-bob"])
    assert [view.record.name for view in await home.engine.checkpoints.all()] == ["c", "x"]
    await home.engine.classes.destroy("x")
    await asyncio.sleep(seconds)
    await home.restart()
    await gone_without_asking(home)
    assert [view.record.name for view in await home.engine.checkpoints.all()] == ["c"]


async def test_a_first_copy_that_fails_is_told_and_tried_again(home: FakeDaemon) -> None:
    home.host.fail_launch["*"] = "no luck"
    await from_template(home, "ann", "bob")
    assert set((await ready(home)).values()) == {"failed"}
    reasons = (await home.engine.classes.get("x")).record.failed
    assert reasons["ann"].startswith("the first copy could not be made: ")
    assert "no luck" in reasons["bob"]
    assert await labs(home) == ["web"]
    home.host.fail_launch.clear()
    await from_template(home, "ann", "bob")
    assert set((await ready(home)).values()) == {"running"}
    await gone(home)


async def test_a_class_is_destroyed_while_its_first_copy_boots(home: FakeDaemon) -> None:
    await from_template(home, "ann")
    await asyncio.sleep(0.1)
    await gone(home)
    await until_labs(home, ["web"])
    assert [view.record.name for view in await home.engine.checkpoints.all()] == ["c"]


async def test_names_that_the_first_copy_needs_are_free(home: FakeDaemon) -> None:
    students = [Student(name="ann")]
    for name, message in (
        ("web", "there is a lab web already, and the first copy of the class has this name"),
        ("c", "there is a checkpoint c already; choose another name for the class"),
    ):
        with pytest.raises(Conflict, match=message):
            await home.engine.classes.start(name, spec(node("a")), students, settings={})
    await start(home, "ann")
    with pytest.raises(Conflict, match="class x was started from checkpoint c; destroy it first"):
        await from_template(home, "ann")
    with pytest.raises(NotFound, match="there is no class y"):
        await home.engine.classes.add("y", students)
    with pytest.raises(InputError, match="student ann is on the roster twice"):
        await home.engine.classes.add("x", [*students, *students])
    assert not (await home.engine.classes.get("x")).record.spec
    await gone(home)


async def test_a_few_are_forked_at_a_time_and_one_that_fails_harms_no_other(
    home: FakeDaemon,
) -> None:
    def told(argv: Sequence[str]) -> ExecResult:
        return ExecResult(status=int("LABD_STUDENT=s2" in argv), stdout=b"", stderr=b"no luck")

    home.host.opens_agent, home.host.exec_result = True, told
    await home.up(spec(node("a", on_fork=(("hostname", "x"),))), "told")
    await home.ok(home.engine.checkpoints.save("told", "d", mode=SaveMode.LIVE, message=""))
    names = [f"s{number}" for number in range(1, 7)]
    home.snapshots.slow = {f"x-{name}": asyncio.Event() for name in names}
    seq = await home.seq()
    await home.engine.classes.start("x", "d", [Student(name=name) for name in names], settings={})
    async with asyncio.timeout(10):
        while len(await labs(home)) < 2 + 4:
            await asyncio.sleep(0.01)
    await home.engine.classes.tick()
    await home.engine.classes.tick()
    assert await labs(home) == ["told", "web", "x-s1", "x-s2", "x-s3", "x-s4"]
    for gate in home.snapshots.slow.values():
        gate.set()
    states = await ready(home)
    assert states == {**dict.fromkeys(names, "running"), "s2": "failed"}
    assert "ended with 1: no luck" in (await home.engine.classes.get("x")).record.failed["s2"]
    assert "x-s2" not in await labs(home)
    assert "class.student-failed x" in await home.story(seq)
    home.host.exec_result = lambda _: ExecResult(status=0, stdout=b"", stderr=b"")
    await home.engine.classes.start("x", "d", [Student(name="s2")], settings={})
    assert await ready(home) == dict.fromkeys(names, "running"), "the same command tries again"
    await gone(home)


async def test_room_is_what_running_copies_measure(home: FakeDaemon) -> None:
    await start(home, "ann")
    await ready(home)
    home.own_memory = 2 * GIB
    home.memory = 8 * GIB  # of which 1 is kept: 7, and a lab may need 3
    with pytest.raises(NoRoom, match=r"each of its 3 labs may need 3 GiB.* 7 GiB free.* for 2;"):
        await start(home, "ann", "bob", "eve", "dan")
    await start(home, "ann", "bob", "eve")
    await ready(home)
    await gone(home)


async def test_who_has_no_room_waits_in_the_queue(home: FakeDaemon) -> None:
    home.memory = 0
    students = [Student(name="ann"), Student(name="bob")]
    await home.engine.classes.start("x", "c", students, settings={}, queue=True)
    await asyncio.sleep(1.0)
    view = await home.engine.classes.get("x")
    assert (view.states, view.record.told) == ({"ann": "waiting", "bob": "waiting"}, False)
    home.memory = 64 * GIB
    assert await ready(home) == {"ann": "running", "bob": "running"}
    await gone(home)
