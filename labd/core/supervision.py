"""What a supervisor counts becomes events and findings of `lab doctor`.

A loop that fails a thousand times is told a few times: at its first fault at once, then once a
minute with the number of those since, and when it is sound again. `labd.host.supervision` is the
supervisor itself, for the adapters below have loops, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final, Protocol

from labd.host.doctor import Finding, Level
from labd.host.ratelimit import RateLimiter
from labd.host.supervision import TaskFailures, TaskState, TaskSupervisor
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType

log = logging.getLogger(__name__)

NAME: Final = "task-failures"  # of the loop itself
EVERY: Final = 60.0  # seconds between two events of one task
_RATE, _BURST = 0.2, 20  # events of all tasks: a second, and at once
_AGAIN = 2.0  # seconds until the inventory is tried again
_SHOWN = 24 * 3600.0  # seconds for which a task that is sound again stays in the findings
_ADVICE = (
    "it is a fault of labd, which goes on: please report it with the traceback of "
    "`journalctl -u labd`"
)


class EventWriter(Protocol):
    """What a transaction does here."""

    async def emit(self, draft: EventDraft, /) -> object:
        """Add an event."""


class EventStore(Protocol):
    """What this needs of the inventory."""

    def transaction(self) -> AbstractAsyncContextManager[EventWriter]:
        """Begin a transaction."""


class FailureReporter:
    """Writes `host.task-failed` and `host.task-recovered`; `run` is the loop.

    Args:
        tasks: Counts.
        store: Takes the events.
        every: Seconds between two events of one task.
    """

    def __init__(self, tasks: TaskSupervisor, store: EventStore, *, every: float = EVERY) -> None:
        self._tasks = tasks
        self._store = store
        self._every = every
        self._limiter = RateLimiter(_RATE, _BURST)
        self._pending: dict[str, TaskFailures] = {}
        self._told: dict[str, int] = {}  # task -> faults that events have told
        self._next: dict[str, float] = {}  # task -> loop time of its next event
        self._wake = asyncio.Event()
        tasks.listen(self._hear)

    def _hear(self, found: TaskFailures) -> None:
        self._pending[found.task] = found
        self._wake.set()

    async def run(self) -> None:
        """Write what is due, for ever."""
        while True:
            self._wake.clear()
            try:
                wait = await self._write_due()
            except LabdError as error:
                log.warning("faults of tasks wait for the inventory: %s", error)
                wait = _AGAIN
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _write_due(self) -> float | None:
        """Write the events whose time has come; return seconds until the next one."""
        now = asyncio.get_running_loop().time()
        waits: list[float] = []
        for name, found in list(self._pending.items()):
            recovered = found.state is TaskState.SOUND
            news = max(0, found.failures - self._told.get(name, 0))
            if not news and not recovered:
                self._pending.pop(name)
                continue
            wait = 0.0 if recovered else self._next.get(name, now) - now
            if wait > 0 or (wait := self._limiter.take()) > 0:
                waits.append(wait)
                continue
            await self._write(found, news)
            self._told[name] = found.failures
            self._next[name] = now + self._every
            if self._pending[name] is found:
                self._pending.pop(name)
        self._forget()
        return min(waits, default=None)

    async def _write(self, found: TaskFailures, news: int) -> None:
        async with self._store.transaction() as tx:
            if news:
                await tx.emit(_event(EventType.HOST_TASK_FAILED, {**_facts(found), "new": news}))
            if found.state is TaskState.SOUND:
                await tx.emit(_event(EventType.HOST_TASK_RECOVERED, _facts(found)))

    def _forget(self) -> None:
        known = {found.task for found in self._tasks.failures()}
        for table in (self._told, self._next):
            for name in [name for name in table if name not in known]:
                del table[name]

    def findings(self, now: Callable[[], float]) -> list[Finding]:
        """Return a finding for each task that has failed; one for all when none has."""
        found = [
            _finding(item)
            for item in self._tasks.failures()
            if item.state is not TaskState.SOUND or now() - item.last < _SHOWN
        ]
        fine = Finding(name="tasks", level=Level.OK, text="no loop of labd has failed")
        return found or [fine]


def _event(kind: EventType, data: Mapping[str, object]) -> EventDraft:
    return EventDraft(type=kind, subject=str(data["task"]), data=data)


def _facts(found: TaskFailures) -> dict[str, object]:
    return {
        "task": found.task,
        "error": found.error,
        "failures": found.failures,
        "since": _rfc3339(found.since),
        "last": _rfc3339(found.last),
        "state": str(found.state),
    }


_WORDS: Final = {
    TaskState.WAITING: "it does not run now, and is started again soon",
    TaskState.RUNNING: "it runs",
    TaskState.SOUND: "it has run without a fault since",
    TaskState.ENDED: "it was for once, and is not done again",
}


def _finding(found: TaskFailures) -> Finding:
    times = "once" if found.failures == 1 else f"{found.failures} times"
    since = "at" if found.failures == 1 else "since"
    return Finding(
        name="tasks",
        level=Level.FAIL if found.state is TaskState.WAITING else Level.WARN,
        text=(
            f"{found.task} has failed {times} {since} {_rfc3339(found.since)}, the last time at "
            f"{_rfc3339(found.last)} ({found.error}); {_WORDS[found.state]}"
        ),
        advice=_ADVICE,
    )


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
