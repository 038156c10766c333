"""Faults that no operation asked for: who is in whose way, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from labd.host.threads import bulk, quick
from labd.model.differences import Mismatch
from labd.model.errors import Busy, Conflict, NotFound
from labd.model.records import OperationKind, OperationRecord
from labd.model.states import NodeState
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

K = OperationKind


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def test_a_guest_that_resets_itself_over_and_over_holds_nobody_up(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    key, seq = await home.key("a"), await home.seq()
    tasks = len(asyncio.all_tasks())
    for turn in range(100):
        home.host.reset(key, guest=True)
        if turn == 50:
            await home.act(K.PAUSE, "b")
            await home.act(K.RESUME, "b")
    async with asyncio.timeout(LIMIT):
        while (await home.story(seq)).count("node.reset a") < 100:
            await home.engine.events.wait(await home.seq())
    await home.until("a", NodeState.READY)
    assert len(asyncio.all_tasks()) <= tasks + 2
    assert await home.states() == {"a": "ready", "b": "ready"}
    await home.act(K.DESTROY)
    assert home.host.machines == {}


async def test_two_ups_of_one_lab_at_one_moment_make_one_lab(home: FakeDaemon) -> None:
    one = spec(node("a"), node("b"))
    results = await asyncio.gather(
        *(home.engine.labs.up("web", one) for _ in range(3)), return_exceptions=True
    )
    taken = [result for result in results if isinstance(result, OperationRecord)]
    refused = [result for result in results if isinstance(result, Busy | Conflict)]
    assert len(taken) + len(refused) == 3
    assert len({operation.id for operation in taken}) == 1
    await home.idle()
    assert await home.states() == {"a": "ready", "b": "ready"}
    assert len(home.host.machines) == 2


@pytest.mark.parametrize("turns", range(0, 60, 6))
async def test_up_against_destroy_ends_with_the_lab_or_without(
    home: FakeDaemon, turns: int
) -> None:
    up = asyncio.ensure_future(home.engine.labs.up("web", spec(node("a"), node("b"))))
    for _ in range(turns):
        await asyncio.sleep(0)
    destroy = asyncio.ensure_future(home.engine.labs.act(K.DESTROY, "web", force=True))
    results = await asyncio.gather(up, destroy, return_exceptions=True)
    assert all(isinstance(r, OperationRecord | Busy | NotFound) for r in results), results
    await home.idle()
    left = await home.states()
    assert left in ({}, {"a": "ready", "b": "ready"})
    assert len(home.host.machines) == len(left)
    found = await home.engine.fsck.check(repair=False)
    assert [item for item in found if item.kind is not Mismatch.LOST_IMAGE] == []  # it is a fake


async def test_three_that_hang_hold_up_no_adoption(home: FakeDaemon) -> None:
    names = [f"n{number}" for number in range(12)]
    await home.up(spec(*(node(name) for name in names)))
    await home.kill_daemon()
    hung = {"n0", "n5", "n11"}
    for name in hung:
        home.host.hang(await home.key(name))
    home.host.patience = 0.3
    seq = await home.seq()
    recovered = await home.start()
    assert (recovered.adopted, recovered.lost) == (12, 0)
    assert home.host.waiting == [0, 3], "all three are waited for at one time"
    assert await home.states() == {
        name: "unresponsive" if name in hung else "ready" for name in names
    }
    # Those that answer were not kept waiting: they are told first.
    told = [line.split()[1] for line in await home.story(seq) if line.startswith("node.adopted")]
    assert set(told[-3:]) == hung


async def test_a_disk_that_does_not_answer_holds_up_no_other_lab(
    home: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(node("a"))
    await home.up(one)
    await home.act(K.DOWN)
    key = await home.key("a")
    asked, go_on = threading.Event(), threading.Event()
    sizes = home.storage.sizes

    def hang() -> None:
        asked.set()
        assert go_on.wait(LIMIT)

    async def look(of: str) -> Mapping[str, int]:
        if of == key:
            await quick(hang)
        return await sizes(of)

    monkeypatch.setattr(home.storage, "sizes", look)
    slow = asyncio.create_task(home.engine.labs.up("web", one))
    try:
        assert await asyncio.to_thread(asked.wait, LIMIT)
        async with asyncio.timeout(LIMIT / 3):
            other = spec(node("b", nics=()), networks=())
            await home.up(other, "other")
            assert await home.states("other") == {"b": "ready"}
            assert {lab.name for lab, _ in await home.engine.overview.all()} == {"web", "other"}
            with pytest.raises(Busy):
                await home.engine.labs.up("web", one)
        assert not slow.done()
    finally:
        go_on.set()
    await home.ok(slow)
    await home.act(K.DESTROY)
    await home.ok(home.engine.labs.act(K.DESTROY, "other"))


async def test_bulk_work_that_hangs_holds_up_no_lab(home: FakeDaemon, tmp_path: Path) -> None:
    # As on a disk that does not answer: the open of a pipe that nobody writes to.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    hung = [asyncio.create_task(bulk(pipe.read_bytes)) for _ in range(64)]
    try:
        async with asyncio.timeout(LIMIT):
            await home.up(spec(node("a"), node("b")))
            await home.act(K.DOWN)
            await home.up(spec(node("a"), node("b")))
            assert [lab.name for lab, _ in await home.engine.overview.all()] == ["web"]
            await home.act(K.DESTROY)
        assert not any(task.done() for task in hung)
    finally:
        while not all(task.done() for task in hung):
            fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
            await asyncio.sleep(0.01)
            os.close(fd)
            await asyncio.sleep(0.01)
