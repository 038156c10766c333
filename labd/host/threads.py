"""Work in threads: small work, bulk work, downloads, logs, and work in a thread of its own.

Four pools, so that nobody who opens a small file waits behind somebody who hashes an image, and so
that a disk that does not answer holds up only those who ask it. Their threads are daemons: a call
that a dead disk never lets go of does not keep labd from ending.

Namespaces, Landlock's rules and the parent-death signal belong to a thread (namespaces(7),
landlock(7), PR_SET_PDEATHSIG of prctl(2)). A thread that changes what it may do never comes back,
so nothing has to be restored, and the event loop's thread never moves.

Nobody waits for a thread inside a transaction of the inventory: there is one at a time, so that all
labs would wait along with it. `TransactionBody` says where one is, and every function here refuses.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_IDLE = 10.0  # seconds after which a thread without work ends
_STUCK = 10.0  # seconds after which the end of work is not waited for any more


class WaitInTransaction(RuntimeError):
    """A transaction of the inventory would wait for something else: a fault of labd."""


class TransactionBody:
    """The statements of one transaction, between its begin and its commit.

    They have nothing to wait for: rows are read from memory, and changes are gathered there.

    Attributes:
        suspended: Whether its task has given way to the loop, for whatever reason.
    """

    def __init__(self) -> None:
        self.suspended = False
        self._open = True
        self._begun = time.monotonic()
        self._handle = asyncio.get_running_loop().call_soon(self._note)
        _body.set(self)

    def _note(self) -> None:
        self.suspended = True

    def end(self) -> None:
        """Say that the statements are over; in whatever context, and more than once."""
        self._open = False
        self._handle.cancel()

    @property
    def open(self) -> bool:
        """Whether the statements are not over yet."""
        return self._open

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return time.monotonic() - self._begun


# Tasks that are begun in a transaction inherit it, so that waiting for them is no way round.
_body: contextvars.ContextVar[TransactionBody | None] = contextvars.ContextVar("body", default=None)


def require_outside(what: object) -> None:
    """Raise WaitInTransaction if a transaction of this task is open.

    Raises:
        WaitInTransaction: One is; with the name of what was to be called.
    """
    body = _body.get()
    if body is not None and body.open:
        name = getattr(what, "__qualname__", repr(what))
        raise WaitInTransaction(
            f"{name} was called inside a transaction of the inventory, in which every lab would "
            "wait for it; call it before the transaction begins"
        )


class Pool:
    """Up to `size` threads, made when they are needed, for work that comes back."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._work: deque[tuple[Future[object], Callable[[], object]]] = deque()
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []
        self._threads = 0
        self._generation = 0
        self._futures: set[Future[object]] = set()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a thread do something; one that has not begun can be cancelled."""
        future: Future[T] = Future()
        with self._lock:
            self._futures.add(future)  # type: ignore[arg-type]
            self._work.append((future, work))  # type: ignore[arg-type]
            more = not self._idle and self._threads < self._size
            self._threads += more
            if self._idle:
                # The one that was busy last: the others have the time to end.
                self._idle.pop().notify()
        if more:
            arguments = (self._generation,)
            threading.Thread(
                target=self._serve, args=arguments, name=self._name, daemon=True
            ).start()
        return future

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` in a thread and return its result.

        Cancelled, it leaves the thread to end by itself, as `asyncio.to_thread` does.

        Raises:
            WaitInTransaction: A transaction of this task is open.
        """
        require_outside(work)
        call = partial(contextvars.copy_context().run, work, *args, **kwargs)
        return await asyncio.wrap_future(self.submit(call))

    async def whole(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` in a thread and return its result; whoever undoes its work finds it ended.

        Cancelled, however often, it waits for the end of `work` all the same, but for a disk that
        does not answer no longer than 10 seconds.

        Raises:
            WaitInTransaction: A transaction of this task is open.
        """
        require_outside(work)
        call = partial(contextvars.copy_context().run, work, *args, **kwargs)
        future = self.submit(call)
        done = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            end = time.monotonic() + _STUCK
            while not (done.done() or future.cancel()) and (left := end - time.monotonic()) > 0:
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({done}, timeout=left)
            if not done.cancel() and not done.cancelled():
                done.exception()  # seen: it is the cancellation that is told
            raise

    def finish(self, seconds: float) -> int:
        """Wait until all work has ended; return how many calls have not by then. Blocks."""
        with self._lock:
            pending = {future for future in self._futures if not future.cancelled()}
        return len(wait(pending, seconds).not_done)

    def renew(self) -> None:
        """Have every later call run in a thread that is made by its caller's thread.

        A new thread inherits the namespaces of the one that makes it (namespaces(7)), so whoever
        has entered another network namespace, as tests do, begins with this.
        """
        with self._lock:
            self._generation += 1
            self._threads = 0
            for idle in self._idle:
                idle.notify()
            self._idle.clear()

    def _serve(self, generation: int) -> None:
        while (job := self._next(generation)) is not None:
            call(*job)
            with self._lock:
                self._futures.discard(job[0])
            del job  # a thread that waits must not keep what it worked on

    def _next(self, generation: int) -> tuple[Future[object], Callable[[], object]] | None:
        """Return what is to be done next, None when there has been nothing for a while."""
        with self._lock:
            mine = threading.Condition(self._lock)
            while generation == self._generation and not self._work:
                self._idle.append(mine)
                mine.wait(_IDLE)
                if mine in self._idle:  # nobody has called it
                    self._idle.remove(mine)
                    self._threads -= 1
                    return None
            return self._work.popleft() if generation == self._generation else None


def call(future: Future[T], work: Callable[[], T]) -> None:
    """Do something in this thread, and tell a future, unless that was cancelled before."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - handed to the one who waits
        future.set_exception(error)
    else:
        future.set_result(result)


# Enough for many calls that hang on disks that do not answer; a thread that is not needed is none.
_QUICK: Final = Pool("quick", 128)
# As many as keep the CPUs and a few disks busy: hashing, converting, loading and copying.
_BULK: Final = Pool("bulk", (os.cpu_count() or 1) + 4)
_DOWNLOADS: Final = Pool("download", 16)
# Logs of machines, one thread at a time for each; see `logkeeper.py` of the driver.
LOGS: Final = Pool("log", 16)

# Small work: opens, looks, a few KiB. It never waits behind bulk work.
quick = _QUICK.run
# Work on whole images, checkpoints and trees of files, which takes as long as it takes.
bulk = _BULK.run
# The same, for what is undone when it fails or is cancelled.
bulk_whole = _BULK.whole
# Work that waits for servers on the network most of the time.
download = _DOWNLOADS.run


def renew() -> None:
    """Have every later call run in a new thread; see `Pool.renew`."""
    for pool in (_QUICK, _BULK, _DOWNLOADS, LOGS):
        pool.renew()


async def finish(seconds: float) -> int:
    """Wait until the work of all pools has ended; return how many calls have not by then."""

    def work() -> int:
        end, pools = time.monotonic() + seconds, (_QUICK, _BULK, _DOWNLOADS, LOGS)
        return sum(p.finish(max(0.0, end - time.monotonic())) for p in pools)

    return await in_thread(work)


async def in_thread(work: Callable[[], T], linger: Callable[[], None] | None = None) -> T:
    """Run `work` in a thread of its own and return its result.

    Cancelled, however often, it waits for the end of `work` all the same: a thread cannot be
    stopped half way, and whoever undoes its work must find it ended. So `work` must have an end: it
    talks to the kernel, and to nobody who may let it wait.

    Args:
        work: What to do.
        linger: Called in that thread after the result was told: what `work` made may need its
            thread to live. Not called when `work` fails.

    Raises:
        WaitInTransaction: A transaction of this task is open.
    """
    require_outside(work)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            problem = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, problem)
        if problem is None and linger is not None:
            linger()

    threading.Thread(target=run, name="own", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({done})
        raise
