"""Writes a console's log in a thread, in order, so that no disk holds up the event loop.

What waits for the disk is bounded: when it is too much, nothing more is read from QEMU, and the
guest's port waits with it. A guest must not hang for good because of a log, though: when the disk
has not answered for some seconds, reading goes on, and what cannot be recorded is counted and told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar

from labd.host.threads import LOGS, call

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITING_LIMIT: Final = 256 << 10  # bytes that wait for the disk before reading does
_MUCH = 64 << 10  # bytes for which a thread is called at once
_GATHER = 0.02  # seconds in which output is gathered, as each call of a thread costs as much as it
PATIENCE: Final = 5.0  # seconds that a guest waits for the disk of its log


class Log(Protocol):
    """What is written to; its methods may block."""

    def write(self, data: bytes, now: int) -> None:
        """Append what came at a time, in nanoseconds since the epoch."""

    def mark(self, before: int) -> None:
        """Remember the place so many bytes before the end."""

    def close(self) -> None:
        """Close the file (idempotent)."""


class Owner(Protocol):
    """Who has the log written; called in the event loop."""

    def press(self, full: bool) -> None:  # noqa: FBT001
        """Too much waits, or reading may go on."""

    def written(self, size: int) -> None:
        """So many bytes are recorded, or given up."""

    def failed(self, error: BaseException) -> None:
        """The log has met a fault of labd."""


class LogKeeper:
    """The thread's side of one log; all methods are for the event loop and return at once.

    Args:
        target: The log. Only jobs of this class call it.
        name: `LAB/NODE`, for messages.
        owner: Told what comes of it.
    """

    def __init__(
        self,
        target: Log,
        name: str,
        owner: Owner,
    ) -> None:
        self._target, self._name, self._owner = target, name, owner
        self._lock = threading.Lock()
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()  # bytes of output, what to do
        self._busy = False
        self._mark: Callable[[], None] | None = None  # the last job, while that is a mark
        self._waiting = self._lost = 0
        self._full = self._lossy = False
        self._timer: asyncio.TimerHandle | None = None
        self._gathering: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Have output recorded; never fails."""
        if self._lossy or self._waiting > 2 * WAITING_LIMIT:
            self._lost += len(data)
            self._owner.written(len(data))
            return
        self._waiting += len(data)
        job = partial(self._target.write, data, time.time_ns())
        with self._lock:
            self._jobs.append((len(data), job))
        if self._waiting > _MUCH:
            self._begin()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHER, self._begin)
        if self._waiting > WAITING_LIMIT and not self._full:
            self._full = True
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)
            self._owner.press(True)

    def mark(self, before: int) -> None:
        """Have the place `before` bytes before the end of what was written marked."""
        with self._lock:
            if self._mark is not None and self._jobs and self._jobs[-1][1] is self._mark:
                self._jobs.pop()  # a guest that resets over and over, and a disk that hangs
        mark = partial(self._target.mark, before)
        self._put(mark)
        self._mark = mark

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `work` does in the thread, after all that was asked before."""
        future: Future[T] = Future()
        self._put(partial(call, future, work))
        return asyncio.wrap_future(future)

    async def settled(self, timeout: float) -> bool:
        """Wait until all output is recorded that has come so far; tell whether it is in time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.do(bool), timeout)
            return True
        return False

    def close(self) -> None:
        """Have the file closed when all is recorded."""
        if self._timer is not None:
            self._timer.cancel()
        self._put(self._target.close)

    def _put(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append((0, job))
        self._begin()

    def _begin(self) -> None:
        """Have a thread do what waits, unless one is at it."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        with self._lock:
            begin = bool(self._jobs) and not self._busy
            self._busy = self._busy or begin
        if begin:
            LOGS.submit(partial(self._work, asyncio.get_running_loop()))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do all jobs, in the thread."""
        while True:
            with self._lock:
                jobs, self._jobs = self._jobs, deque()
                if not jobs:
                    self._busy = False
                    return
            for _, job in jobs:
                done: Future[None] = Future()
                call(done, job)
                if (error := done.exception()) is not None:
                    with suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._owner.failed, error)
            if size := sum(size for size, _ in jobs):
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._done, size)

    def _done(self, size: int) -> None:
        self._waiting -= size
        self._owner.written(size)
        if not self._full or self._waiting > WAITING_LIMIT // 2:
            return
        self._full = False
        if self._timer is not None:
            self._timer.cancel()
        if self._lossy:
            self._lossy = False
            log.warning(
                "the log of %s is written again; %d bytes were not recorded", self._name, self._lost
            )
            self._lost = 0
        else:
            self._owner.press(False)

    def _give_up(self) -> None:
        self._lossy = True
        log.warning(
            "the disk of the log of %s has not answered for %g s: what the node says is not "
            "recorded until it does; look at the health of the disk",
            self._name,
            PATIENCE,
        )
        self._owner.press(False)
