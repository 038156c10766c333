"""Work in threads: who waits behind whom, and who may not wait at all."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from labd.host.threads import Pool, WaitInTransaction, bulk, bulk_whole, finish, in_thread, quick
from labd.inventory.sqlite import SqliteInventory
from labd.model.events import EventDraft, EventType

IN_THREADS = [quick, bulk, bulk_whole, in_thread]


@pytest.mark.parametrize("run", [in_thread, bulk_whole])
@pytest.mark.parametrize("times", [1, 3])
async def test_whoever_cancels_finds_the_work_ended(
    times: int, run: Callable[[Callable[[], None]], Awaitable[None]]
) -> None:
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.ensure_future(run(work))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(times):
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_small_work_never_waits_behind_bulk_work(tmp_path: Path) -> None:
    # Bulk work that hangs as on a disk that does not answer: the open of a pipe without a writer.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    hung = [asyncio.create_task(bulk(pipe.read_bytes)) for _ in range(200)]
    try:
        async with asyncio.timeout(20):
            assert await quick(tmp_path.exists)
            assert not any(task.done() for task in hung)
    finally:
        await _let_go(pipe, hung)


async def _let_go(pipe: Path, hung: list[asyncio.Task[bytes]]) -> None:
    while not all(task.done() for task in hung):
        fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        await asyncio.sleep(0.01)
        os.close(fd)
        await asyncio.sleep(0.01)


async def test_a_pool_has_as_many_threads_as_it_needs_and_no_more() -> None:
    pool, go_on = Pool("few", 3), threading.Event()
    for _ in range(5):
        assert await pool.run(int, "7") == 7
    assert 1 <= _threads("few") <= 3
    waiting = [asyncio.create_task(pool.run(go_on.wait, 30)) for _ in range(9)]
    async with asyncio.timeout(60):
        while _threads("few") < 3:
            await asyncio.sleep(0.01)
    assert _threads("few") == 3
    waiting[8].cancel()
    await asyncio.wait({waiting[8]})
    assert await in_thread(lambda: pool.finish(0.05)) == 8
    go_on.set()
    assert await asyncio.gather(*waiting[:8]) == [True] * 8
    assert await in_thread(lambda: pool.finish(30)) == 0


def _threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


async def test_what_goes_wrong_in_a_thread_is_told_to_who_asked() -> None:
    with pytest.raises(FileNotFoundError):
        await quick(Path("/nowhere").stat)
    with pytest.raises(ValueError, match="invalid literal"):
        await bulk(int, "seven")


async def test_the_end_of_labd_waits_for_threads_but_not_for_ever() -> None:
    go_on = threading.Event()
    task = asyncio.create_task(bulk(go_on.wait, 30))
    await asyncio.sleep(0)
    assert await finish(0.05) >= 1
    go_on.set()
    await task


@pytest.mark.parametrize("way", IN_THREADS)
async def test_a_transaction_waits_for_no_thread(way: Callable[[Any], Awaitable[Any]]) -> None:
    inventory = await SqliteInventory.open(Path(":memory:"), strict=True)

    async def by_a_task() -> None:
        await asyncio.create_task(way(os.getpid))  # type: ignore[arg-type]

    for wait in (lambda: way(os.getpid), by_a_task, lambda: asyncio.gather(way(os.getpid))):
        with pytest.raises(WaitInTransaction, match="getpid was called inside a transaction"):
            async with inventory.transaction() as tx:
                await tx.emit(EventDraft(type=EventType.NODE_READY))
                await wait()
    assert await inventory.last_seq() == 0
    assert await way(os.getpid) == os.getpid()
    await inventory.close()


async def test_what_a_transaction_has_begun_may_wait_once_it_is_over() -> None:
    inventory = await SqliteInventory.open(Path(":memory:"), strict=True)
    async with inventory.transaction() as tx:
        await tx.emit(EventDraft(type=EventType.NODE_READY))
        task = asyncio.create_task(_later(inventory))
    assert await task == os.getpid()
    await inventory.close()


async def _later(inventory: SqliteInventory) -> int:
    await inventory.wait_events(0)
    return await quick(os.getpid)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_transaction_that_waits_for_whatever_is_told(
    strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inventory = await SqliteInventory.open(Path(":memory:"), strict=strict)

    async def slow() -> None:
        async with inventory.transaction() as tx:
            await tx.emit(EventDraft(type=EventType.NODE_READY))
            await asyncio.sleep(0)

    if strict:
        with pytest.raises(WaitInTransaction, match=r"\(node\.ready\) gave way"):
            await slow()
    else:
        with caplog.at_level(logging.WARNING):
            await slow()
        assert "a transaction (node.ready) gave way to other tasks" in caplog.text
    assert await inventory.last_seq() == (0 if strict else 1)
    await inventory.close()
