"""Supervised tasks: a fault of labd ends no loop, and none is silent.

    tasks = TaskSupervisor()
    task = tasks.supervise("leases", leases.run)     # a loop: started again whenever it fails
    tasks.spawn("connection", serve(caller))         # once: nobody waits for it, its fault is told
    with tasks.contained("leases"):                  # a part of a loop that must not end the rest
        ...

Every fault is logged, counted by the name of its task, and told to the listener;
`labd.core.supervision` makes events and findings of that. Errors that a loop expects (`LabdError`)
are the loop's own business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, Final

from labd.host.backoff import Backoff
from labd.model.errors import LabdError

log = logging.getLogger(__name__)

STEADY: Final = 60.0  # seconds without a fault after which a task counts as sound again
_FIRST, _LAST, _JITTER = 0.2, 30.0, 0.25  # of the pauses before a loop is started again
_CANCEL_AGAIN = 15.0  # seconds: what a task undoes on its way out is not to be broken off
_NAMES = 200  # tasks whose faults are kept
_KINDS = 16  # distinct faults of a task that are logged with a traceback
UNHEARD: Final = "unheard"  # what failed where no task of labd's waited: a callback, for example

_OF_THE_WORLD = (OSError, EOFError, LabdError)

Work = Callable[[], Coroutine[Any, Any, None]]


class TaskState(StrEnum):
    """What became of a task that has failed."""

    WAITING = "waiting"  # it does not run, and is started again soon
    RUNNING = "running"  # it runs again, or has never stopped
    SOUND = "sound"  # it has run for a while without a fault
    ENDED = "ended"  # it ran once, and was not started again


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailures:
    """The faults of one task.

    Attributes:
        task: Its name.
        failures: How many since labd has started.
        since: When the first was, in seconds since the epoch.
        last: When the last was.
        error: The last one in words.
        state: What it does now.
    """

    task: str
    failures: int
    since: float
    last: float
    error: str
    state: TaskState


Listener = Callable[[TaskFailures], None]


@dataclass(slots=True)
class _Record:
    found: TaskFailures
    kinds: set[tuple[object, ...]] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None


class TaskSupervisor:
    """Keeps loops running, and counts what fails.

    Args:
        clock: Seconds since the epoch.
        steady: Seconds without a fault after which a task counts as sound again.
        backoff: Makes the back-off of a loop.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        steady: float = STEADY,
        backoff: Callable[[], Backoff] | None = None,
    ) -> None:
        self._clock = clock
        self._steady = steady
        self._backoff = backoff or partial(Backoff, _FIRST, _LAST, steady=steady, jitter=_JITTER)
        self._records: dict[str, _Record] = {}
        self._once: set[asyncio.Task[None]] = set()
        self._listener: Listener = lambda _: None

    def listen(self, listener: Listener) -> None:
        """Have `listener` called in the loop at each change; it hears at once what was before."""
        self._listener = listener
        for found in self.failures():
            listener(found)

    def failures(self) -> list[TaskFailures]:
        """Return the tasks that have failed, in the order of their first fault."""
        return [record.found for record in self._records.values()]

    # running

    def supervise(self, name: str, work: Work) -> asyncio.Task[None]:
        """Run a loop until it returns or is cancelled; a fault starts it again with back-off.

        Args:
            name: For people; faults are counted by it.
            work: Begins the loop, each time anew: it must be able to go on where it was.

        Returns:
            The task. It never raises but for its cancellation; see `cancel_all`.
        """
        return asyncio.create_task(self._keep(name, work), name=name)

    async def _keep(self, name: str, work: Work) -> None:
        backoff = self._backoff()
        while True:
            backoff.begin()
            error: BaseException
            try:
                await work()
            except asyncio.CancelledError as cancelled:
                if _is_cancelled():
                    raise
                error = cancelled  # of something that it waited for: no order to this task
            except Exception as fault:  # noqa: BLE001 - the supervisor of loops
                error = fault
            else:
                return
            pause = backoff.pause()
            self.note(name, error, TaskState.WAITING)
            if _is_cancelled():
                raise asyncio.CancelledError from error
            await asyncio.sleep(pause)
            self._move(name, TaskState.RUNNING)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something once for which nobody waits; a fault is told. The task never raises it."""
        task = asyncio.create_task(self._run_once(name, work), name=name)
        self._once.add(task)
        task.add_done_callback(self._once.discard)
        # A task that is cancelled before it begins has not begun its work, either.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _run_once(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError as cancelled:
            if _is_cancelled():
                raise
            self.note(name, cancelled, TaskState.ENDED)
        except Exception as fault:  # noqa: BLE001 - and of what runs once
            self.note(name, fault, TaskState.ENDED)

    def contained(self, name: str) -> Contained:
        """Return a block whose faults are told, and end nothing else."""
        return Contained(self, name)

    def hear(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count what fails where nobody waits: in callbacks, protocols and forgotten tasks."""
        loop.set_exception_handler(self._unheard)

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # What the world does to a connection is no fault of labd; asyncio logs it.
        if not isinstance(error, Exception) or isinstance(error, _OF_THE_WORLD) or loop.is_closed():
            loop.default_exception_handler(context)
            return
        # A forgotten task is found by the garbage collector, which runs in any thread.
        where = str(context.get("message", ""))
        loop.call_soon_threadsafe(partial(self.note, UNHEARD, error, TaskState.ENDED, where=where))

    # counting

    def note(
        self,
        name: str,
        error: BaseException,
        state: TaskState = TaskState.RUNNING,
        *,
        where: str = "",
    ) -> None:
        """Count a fault: log it, with its traceback when it is a new one, and tell the listener."""
        now, words = self._clock(), describe(error)
        record = self._records.get(name)
        if record is None:
            self._forget()
            found = TaskFailures(
                task=name, failures=0, since=now, last=now, error=words, state=state
            )
            record = self._records[name] = _Record(found)
        count = record.found.failures + 1
        record.found = replace(record.found, failures=count, last=now, error=words, state=state)
        self._log(record, error, where)
        self._rest(record)
        self._listener(record.found)

    def _log(self, record: _Record, error: BaseException, where: str) -> None:
        found, kind = record.found, _kind(error)
        words = f"task {found.task} met a fault of labd{f' ({where})' if where else ''}"
        if kind not in record.kinds and len(record.kinds) < _KINDS:
            record.kinds.add(kind)
            log.error("%s: %s", words, found.error, exc_info=error)
        elif found.failures & (found.failures - 1) == 0:  # 2, 4, 8…: a log is to stay readable
            log.error("%s for the %d. time: %s", words, found.failures, found.error)

    def _rest(self, record: _Record) -> None:
        """Have a task count as sound when it has not failed for a while."""
        if record.timer is not None:
            record.timer.cancel()
        record.timer = None
        if record.found.state is not TaskState.ENDED:
            loop = asyncio.get_running_loop()
            record.timer = loop.call_later(self._steady, self._settle, record)

    def _settle(self, record: _Record) -> None:
        if record.found.state is TaskState.WAITING:  # its pauses are longer than `steady`
            self._rest(record)
        elif self._records.get(record.found.task) is record:
            self._move(record.found.task, TaskState.SOUND)
            log.info("task %s is sound again", record.found.task)

    def _move(self, name: str, state: TaskState) -> None:
        record = self._records.get(name)
        if record is not None:
            record.found = replace(record.found, state=state)
            self._listener(record.found)

    def _forget(self) -> None:
        """Keep the number of names bounded: machines come and go."""
        if len(self._records) >= _NAMES:
            oldest = min(self._records, key=lambda name: self._records[name].found.last)
            record = self._records.pop(oldest)
            if record.timer is not None:
                record.timer.cancel()


class Contained(AbstractContextManager["Contained"]):
    """A block that keeps faults to itself; cancellation and `LabdError` pass.

    Attributes:
        error: The fault that it has met, if any.
    """

    def __init__(self, tasks: TaskSupervisor, name: str) -> None:
        self._tasks = tasks
        self._name = name
        self.error: Exception | None = None

    @property
    def failed(self) -> bool:
        """The block has met a fault."""
        return self.error is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, LabdError):
            return False
        self.error = error
        self._tasks.note(self._name, error)
        return True


async def cancel_all(tasks: Iterable[asyncio.Task[Any]], again: float = _CANCEL_AGAIN) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    Python 3.11 loses a cancellation that comes just as a `wait_for` or a task group ends, so that
    one who goes on is cancelled again.

    Args:
        tasks: None of them is the caller's own.
        again: Seconds that a task has for its farewell before it is cancelled again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again)


def describe(error: BaseException) -> str:
    """Return an error in one line, with its type; of a group, the first that is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _kind(error: BaseException) -> tuple[object, ...]:
    """Return what makes two faults the same: their type and the line that raised them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()
    return (type(error), *place)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
