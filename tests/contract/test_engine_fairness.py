"""Classes share slots and room: none waits for ever for another, and what ends waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.errors import NoRoom
from labd.model.records import OperationKind, Wanted
from labd.model.units import GIB, MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind
EACH = 33 * MIB  # and a little less of one more lab of checkpoint c, by its `need`
LIMIT = 20.0  # seconds


class TightDaemon(FakeDaemon):
    """A host with room for so many labs besides `web`; each takes EACH for as long as it runs."""

    room_for = 1000

    @property
    def memory(self) -> int:
        copies = sum(1 for machine in self.host.machines.values() if machine.spec.lab != "web")
        return GIB + (self.room_for - copies) * EACH

    @memory.setter
    def memory(self, _: int) -> None:
        pass


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[TightDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        it.__class__ = TightDaemon
        assert isinstance(it, TightDaemon)
        await it.up(spec(node("a")))
        await it.ok(it.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
        yield it
        it.room_for = 1000
        it.host.boot_output = b"guest: up\r\n"
        for view in await it.engine.classes.all():
            await it.engine.classes.destroy(view.record.name)
        await until(lambda: no_classes(it))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = LIMIT) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.02)


async def no_classes(home: FakeDaemon, *names: str) -> bool:
    found = {record.name for record in await home.inventory.classes()}
    return not found.intersection(names or found)


async def start(home: FakeDaemon, name: str, students: int, *, queue: bool = True) -> None:
    roster = [Student(name=f"s{number}") for number in range(students)]
    await home.engine.classes.start(name, "c", roster, settings={}, queue=queue)


async def states(home: FakeDaemon, name: str) -> list[str]:
    return sorted((await home.engine.classes.get(name)).states.values())


async def running(home: FakeDaemon) -> Mapping[str, int]:
    return {
        view.record.name: list(view.states.values()).count("running")
        for view in await home.engine.classes.all()
    }


async def started(home: FakeDaemon) -> list[str]:
    """Return the class of each lab that was forked, in order."""
    return [
        event.draft.lab.partition("-")[0]
        for event in await home.inventory.events(0, 100_000)
        if event.draft.type == "lab.created" and event.draft.lab != "web"
    ]


@pytest.mark.parametrize("wanted", [Wanted.DESTROYED, Wanted.STOPPED])
async def test_what_ends_does_not_wait_behind_an_earlier_class_that_queues(
    home: TightDaemon, wanted: Wanted
) -> None:
    home.room_for = 2
    await start(home, "zoo", 2, queue=False)
    await until(lambda: is_told(home, "zoo"))
    await start(home, "abc", 8)
    await asyncio.sleep(1.2)
    assert await states(home, "abc") == ["waiting"] * 8
    # That is what makes room for them.
    if wanted is Wanted.DESTROYED:
        await home.engine.classes.destroy("zoo")
        await until(lambda: no_classes(home, "zoo"), 4)
    else:
        await home.engine.classes.stop("zoo")
        await until(lambda: is_told(home, "zoo"), 4)
    await until(lambda: are_running(home, "abc", 2))
    home.room_for = 1000
    await until(lambda: is_told(home, "abc"))


async def is_told(home: FakeDaemon, name: str) -> bool:
    return (await home.engine.classes.get(name)).record.told


async def are_running(home: FakeDaemon, name: str, number: int) -> bool:
    return (await running(home)).get(name) == number


async def test_classes_that_queue_take_turns_and_all_converge(home: TightDaemon) -> None:
    names = ("ant", "bee", "cat", "dog", "elk")
    home.room_for = 0
    for name in names:
        await start(home, name, 4)
    await asyncio.sleep(1.2)
    assert await started(home) == []
    home.room_for = 10
    await until(lambda: sums_to(home, 10))
    counts = await running(home)
    assert set(counts.values()) == {2}, counts
    # One goes; what it leaves is shared by the others.
    await home.engine.classes.destroy("cat")
    await until(lambda: no_classes(home, "cat"))
    await until(lambda: sums_to(home, 10))
    counts = await running(home)
    assert max(counts.values()) - min(counts.values()) <= 1, counts
    home.room_for = 16
    for name in set(names) - {"cat"}:
        await until(lambda name=name: is_told(home, name))  # type: ignore[misc]
    order = await started(home)
    assert len(order) == 18
    for name in names:
        # Others between two turns of one class, and before its first.
        turns = [-1, *(index for index, item in enumerate(order) if item == name)]
        between = [after - before - 1 for before, after in pairwise(turns)]
        assert max(between) <= 2 * (len(names) - 1), (name, order)


async def sums_to(home: FakeDaemon, number: int) -> bool:
    return sum((await running(home)).values()) == number


async def test_who_queues_leaves_the_room_to_whom_it_was_promised(home: TightDaemon) -> None:
    home.room_for = 0
    await start(home, "abc", 6)
    await asyncio.sleep(0.7)
    while True:
        home.room_for = 3
        try:
            await start(home, "zoo", 3, queue=False)
        except NoRoom:  # the others were quicker just now
            home.room_for = 0
            await home.engine.classes.destroy("abc")
            await until(lambda: no_classes(home, "abc"))
            await start(home, "abc", 6)
            await asyncio.sleep(0.7)
        else:
            break
    await until(lambda: is_told(home, "zoo"))
    assert await states(home, "zoo") == ["running"] * 3
    assert await states(home, "abc") == ["waiting"] * 6


async def test_a_class_without_room_makes_no_busy_loop(home: TightDaemon) -> None:
    home.room_for = 0
    await start(home, "abc", 30)
    tried = 0
    fork = home.engine.checkpoints.fork

    async def counting(*args: object, **how: object) -> object:
        nonlocal tried
        tried += 1
        return await fork(*args, **how)  # type: ignore[arg-type]

    home.engine.checkpoints.fork = counting  # type: ignore[method-assign,assignment]
    for _ in range(200):
        await home.engine.classes.tick()
    await asyncio.sleep(0.1)
    assert tried <= 8, "a few find out, and not each of thirty at each look"


async def test_a_class_is_destroyed_though_its_first_copy_never_gets_ready(
    home: TightDaemon,
) -> None:
    home.host.boot_output = b""
    students = [Student(name="ann")]
    await home.engine.classes.start("zoo", spec(node("a")), students, settings={})
    await until(lambda: exists(home, "zoo"))
    await home.engine.classes.destroy("zoo")
    await until(lambda: no_classes(home, "zoo"), 8)


async def exists(home: FakeDaemon, lab: str) -> bool:
    return bool(await home.inventory.nodes(lab))


async def test_first_copies_that_never_get_ready_hold_up_no_other_class(home: TightDaemon) -> None:
    home.host.boot_output = b""
    students = [Student(name="ann")]
    for name in ("ant", "bee", "cat", "dog"):
        await home.engine.classes.start(name, spec(node("a")), students, settings={})
    await until(lambda: exists(home, "dog"))
    await start(home, "zoo", 2)
    await until(lambda: is_told(home, "zoo"), 8)


async def test_a_class_is_destroyed_while_its_labs_are_started_again(home: TightDaemon) -> None:
    await start(home, "zoo", 5)
    await until(lambda: is_told(home, "zoo"))
    await home.engine.classes.stop("zoo")
    await until(lambda: is_told(home, "zoo"))
    home.host.boot_output = b""  # none of them ever gets ready
    await start(home, "zoo", 5)
    await until(lambda: starts_again(home, "zoo", 4))
    await home.engine.classes.destroy("zoo")
    await until(lambda: no_classes(home, "zoo"), 8)


async def starts_again(home: FakeDaemon, name: str, number: int) -> bool:
    return (await states(home, name)).count("starting") >= number
