"""Supervised tasks: faults end nothing and are told, cancellation ends all, and nothing floods."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from labd.core.supervision import FailureReporter
from labd.host.backoff import Backoff
from labd.host.doctor import Level
from labd.host.supervision import UNHEARD, TaskState, TaskSupervisor, cancel_all
from labd.model.errors import Conflict, StorageFailed
from labd.model.events import EventDraft

LIMIT = 30.0


def quick() -> Backoff:
    return Backoff(0.0, 0.0)


class Store:
    """An inventory that keeps events, and may be full."""

    def __init__(self) -> None:
        self.told: list[EventDraft] = []
        self.full = False

    async def emit(self, draft: EventDraft, /) -> None:
        self.told.append(draft)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Store]:
        if self.full:
            raise StorageFailed("no room")
        yield self

    def kinds(self) -> list[str]:
        return [str(item.type) for item in self.told]


@asynccontextmanager
async def reporting(
    tasks: TaskSupervisor, store: Store, every: float = 3600.0
) -> AsyncIterator[FailureReporter]:
    reporter = FailureReporter(tasks, store, every=every)
    run = tasks.supervise("reporter", reporter.run)
    try:
        async with asyncio.timeout(LIMIT):
            yield reporter
    finally:
        await cancel_all([run])


async def test_a_loop_is_started_again_and_goes_on() -> None:
    tasks, begun, done = TaskSupervisor(backoff=quick), 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 4:
            raise ZeroDivisionError(f"number {begun}")
        done.set()
        await asyncio.sleep(3600)

    task = tasks.supervise("loop", work)
    async with asyncio.timeout(LIMIT):
        await done.wait()
    (found,) = tasks.failures()
    assert (found.task, found.failures, found.state) == ("loop", 3, TaskState.RUNNING)
    assert found.error == "ZeroDivisionError: number 3"
    await cancel_all([task])
    assert task.cancelled()
    assert begun == 4


async def test_a_loop_that_returns_has_ended() -> None:
    tasks = TaskSupervisor()

    async def work() -> None:
        await asyncio.sleep(0)

    await tasks.supervise("loop", work)
    assert tasks.failures() == []


async def test_a_cancellation_of_something_else_does_not_end_a_loop() -> None:
    tasks, begun, done = TaskSupervisor(backoff=quick), 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            other = asyncio.ensure_future(asyncio.sleep(3600))
            asyncio.get_running_loop().call_soon(other.cancel)
            await other
        done.set()
        await asyncio.sleep(3600)

    task = tasks.supervise("loop", work)
    async with asyncio.timeout(LIMIT):
        await done.wait()
    assert [item.error for item in tasks.failures()] == ["CancelledError"]
    await cancel_all([task])


async def test_a_fault_on_the_way_out_is_told_and_ends_the_loop() -> None:
    tasks, begun = TaskSupervisor(backoff=quick), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        try:
            await asyncio.sleep(3600)
        finally:
            raise ZeroDivisionError

    task = tasks.supervise("loop", work)
    await asyncio.sleep(0)
    await cancel_all([task])
    assert task.cancelled()
    assert begun == 1
    assert [item.failures for item in tasks.failures()] == [1]


async def test_a_lost_cancellation_comes_again() -> None:
    lost = 0

    async def work() -> None:
        nonlocal lost
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        lost += 1
        await asyncio.sleep(3600)

    task = TaskSupervisor().supervise("stubborn", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT):
        await cancel_all([task], again=0.01)
    assert lost == 1


async def test_what_runs_once_is_told_and_raises_nothing() -> None:
    tasks = TaskSupervisor()

    async def work() -> None:
        raise ZeroDivisionError

    await tasks.spawn("once", work())
    (found,) = tasks.failures()
    assert (found.task, found.state) == ("once", TaskState.ENDED)


async def test_what_is_cancelled_before_it_begins_leaves_nothing() -> None:
    async def work() -> None:
        raise AssertionError("it has begun")

    task = TaskSupervisor().spawn("once", work())
    await cancel_all([task])
    assert task.cancelled()
    gc.collect()  # a coroutine that was never awaited would be a warning, which is an error here


async def test_a_block_keeps_faults_and_lets_the_rest_pass() -> None:
    tasks = TaskSupervisor()
    with tasks.contained("loop") as block:
        raise ZeroDivisionError
    assert block.failed
    with tasks.contained("loop") as block:
        await asyncio.sleep(0)
    assert not block.failed
    with pytest.raises(Conflict), tasks.contained("loop"):
        raise Conflict("of the world")
    with pytest.raises(asyncio.CancelledError), tasks.contained("loop"):
        raise asyncio.CancelledError
    assert [item.failures for item in tasks.failures()] == [1]


async def test_a_traceback_is_logged_once_for_each_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = TaskSupervisor()

    def fail(number: int) -> None:
        with tasks.contained("loop"):
            if number % 2:
                raise KeyError(number)
            raise ZeroDivisionError(number)

    with caplog.at_level(logging.ERROR):
        for number in range(64):
            fail(number)
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 2
    assert len(caplog.records) == 2 + 5  # the 4th, 8th, 16th, 32nd and 64th


async def test_what_nobody_waits_for_is_told() -> None:
    tasks, loop = TaskSupervisor(), asyncio.get_running_loop()
    tasks.hear(loop)

    def callback() -> None:
        raise ZeroDivisionError

    async def forgotten() -> None:
        raise KeyError("forgotten")

    try:
        loop.call_soon(callback)
        task = asyncio.ensure_future(forgotten())
        await asyncio.sleep(0.01)
        del task
        gc.collect()
        # As a collector does that runs in a thread.
        context = {"message": "found", "exception": KeyError("thread")}
        await asyncio.to_thread(loop.call_exception_handler, context)
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    (found,) = tasks.failures()
    assert (found.task, found.failures) == (UNHEARD, 3)


async def test_names_are_bounded() -> None:
    tasks = TaskSupervisor()
    for number in range(500):
        tasks.note(f"machine {number}", ZeroDivisionError())
    names = [item.task for item in tasks.failures()]
    assert len(names) == 200
    assert names[-1] == "machine 499"


# events and findings


async def test_a_thousand_faults_are_two_events() -> None:
    tasks, store = TaskSupervisor(), Store()
    begun = time.monotonic()
    async with reporting(tasks, store, every=0.2):
        for _ in range(1000):
            tasks.note("loop", ZeroDivisionError("x"))
            await asyncio.sleep(0)
        while len(store.told) < 2:
            await asyncio.sleep(0.01)
    counts = [item.data["new"] for item in store.told]
    assert sum(int(str(count)) for count in counts) == 1000
    assert store.told[-1].data["failures"] == 1000
    assert {item.subject for item in store.told} == {"loop"}
    assert len(store.told) <= 2 + (time.monotonic() - begun) / 0.2, "one in each interval"


async def test_many_tasks_that_fail_at_once_do_not_flood() -> None:
    tasks, store = TaskSupervisor(), Store()
    async with reporting(tasks, store):
        for number in range(150):
            tasks.note(f"machine {number}", ZeroDivisionError("x"))
        await asyncio.sleep(0.2)
    assert len(store.told) == 20


async def test_a_task_that_is_sound_again_is_told() -> None:
    tasks, store = TaskSupervisor(steady=0.05), Store()
    async with reporting(tasks, store) as reporter:
        tasks.note("loop", ZeroDivisionError("x"))
        while len(store.told) < 2:
            await asyncio.sleep(0.01)
        last = tasks.failures()[0].last
        recent = reporter.findings(lambda: last + 3600)
        later = reporter.findings(lambda: last + 48 * 3600)
    assert store.kinds() == ["host.task-failed", "host.task-recovered"]
    assert [item.level for item in recent] == [Level.WARN]
    assert "it has run without a fault since" in recent[0].text
    assert [item.level for item in later] == [Level.OK]


async def test_events_wait_for_an_inventory_that_is_full() -> None:
    tasks, store = TaskSupervisor(), Store()
    store.full = True
    async with reporting(tasks, store):
        tasks.note("loop", ZeroDivisionError("x"))
        await asyncio.sleep(0.05)
        assert store.told == []
        store.full = False
        tasks.note("loop", ZeroDivisionError("y"))  # which wakes it before its time
        while not store.told:
            await asyncio.sleep(0.01)
    assert store.told[0].data["new"] == 2


async def test_what_failed_before_the_reporter_is_told() -> None:
    tasks, store = TaskSupervisor(), Store()
    tasks.note("early", ZeroDivisionError("x"))
    async with reporting(tasks, store):
        while not store.told:
            await asyncio.sleep(0.01)
    assert store.told[0].data["task"] == "early"


async def test_a_loop_that_waits_is_a_failure_of_the_doctor() -> None:
    tasks = TaskSupervisor(backoff=lambda: Backoff(3600.0))

    async def work() -> None:
        raise ZeroDivisionError("always")

    task = tasks.supervise("loop", work)
    await asyncio.sleep(0.01)
    (found,) = FailureReporter(tasks, Store()).findings(lambda: 0.0)
    assert found.level is Level.FAIL
    assert "(ZeroDivisionError: always); it does not run now, and is started again" in found.text
    assert "journalctl" in found.advice
    await cancel_all([task])
