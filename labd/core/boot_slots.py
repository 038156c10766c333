"""Slots for nodes that boot: a bounded number at once, shared fairly between labs."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

# Seconds that others wait for them at most: one load that hangs must not hold up every lab.
PATIENCE = 15.0


class LoadQueue:
    """Knows what is being loaded.

    Args:
        patience: How many seconds `quiet` waits at most.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._running: set[asyncio.Event] = set()  # each is set when its load ends

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Have it known during the block that something is being loaded."""
        over = asyncio.Event()
        self._running.add(over)
        try:
            yield
        finally:
            self._running.discard(over)
            over.set()

    async def quiet(self) -> None:
        """Wait until all that is being loaded now is no more, or patience has ended.

        What begins later is not waited for: labs that start one after another would have the first
        wait for the last.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                for over in tuple(self._running):
                    await over.wait()


# Seconds after which a node that is still not ready gives its slot back: a guest that never gets
# ready must not hold up those who come after it. The kernel of a guest has long started by then.
HOLD = 15.0
# One of a kind that is known to get ready has as many times what the last one took, so that on a
# busy host the bound stays one: ninety guests that boot together take longer than four at a time.
_PATIENCE = 2
_MOST = 120.0  # seconds
_QUICK = 1.0  # seconds within which a guest is ready whose boot is next to no work
_PARTS = 16  # of a slot; a quick boot takes one of them


@dataclass(slots=True)
class Boot:
    """One boot that has a slot.

    Attributes:
        ready: Whether the guest got ready; whoever has the slot says so.
    """

    ready: bool = False


class BootSlots:
    """At most `size` slots are taken; a free one goes to the lab that has the fewest.

    What boots quickly takes a sixteenth of a slot: the bound is there for what keeps a CPU busy.

    Whoever is next and needs a whole slot holds back everybody behind it, also those who would fit
    in what is free. That is on purpose: quick boots that went past it would keep it waiting for as
    long as more of them come.

    Args:
        size: How many nodes boot at one time.
        hold: Seconds for which a node has its slot at most of whose kind none was ready yet.
    """

    def __init__(self, size: int, hold: float = HOLD) -> None:
        self._room = size * _PARTS
        self._hold = hold
        self._quick: set[Hashable] = set()
        self._took: dict[Hashable, float] = {}  # seconds until the last one was ready, by kind
        self._taken: Counter[str] = Counter()  # parts, by lab
        self._waiting: dict[str, deque[tuple[Hashable, asyncio.Future[int]]]] = {}

    @property
    def taken(self) -> float:
        """Return how many slots are taken."""
        return self._taken.total() / _PARTS

    @asynccontextmanager
    async def take(self, lab: str, kind: Hashable = None) -> AsyncIterator[Boot]:
        """Have a slot during the block; after a while it is given back though the block goes on.

        A kind is quick from when one of it was ready within a second until one takes sixteen
        times as long, for so many of it boot together then.

        Args:
            lab: Whose node it is.
            kind: What all guests have in common that boot alike; None for a guest like no other.
        """
        parts = await self._acquire(lab, kind)
        boot = Boot()
        loop = asyncio.get_running_loop()
        began = loop.time()

        def release() -> None:
            nonlocal parts
            if parts:
                self._release(lab, parts)
                parts = 0

        timer = loop.call_later(self._patience(kind), release)
        try:
            yield boot
        finally:
            timer.cancel()
            self._learn(kind, boot, loop.time() - began)
            release()

    def _patience(self, kind: Hashable) -> float:
        took = self._took.get(kind, 0.0)
        return max(self._hold, min(_PATIENCE * took, _MOST))

    def _learn(self, kind: Hashable, boot: Boot, took: float) -> None:
        if boot.ready and kind is not None:
            self._took[kind] = took
        if took >= _PARTS * _QUICK:
            self._quick.discard(kind)
        elif took < _QUICK and boot.ready and kind is not None:
            self._quick.add(kind)

    def _parts(self, kind: Hashable) -> int:
        return 1 if kind in self._quick else _PARTS

    def _fits(self, kind: Hashable) -> bool:
        return self._taken.total() + self._parts(kind) <= self._room

    async def _acquire(self, lab: str, kind: Hashable) -> int:
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiter = (kind, turn)
        self._waiting.setdefault(lab, deque()).append(waiter)
        self._hand_out()  # it may be this one's turn, whoever waits already
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(lab, turn.result())  # it was given a slot at the very moment
            else:
                self._leave(lab, waiter)
            raise

    def _leave(self, lab: str, waiter: tuple[Hashable, asyncio.Future[int]]) -> None:
        queue = self._waiting.get(lab)
        if queue is None:
            return
        with suppress(ValueError):
            queue.remove(waiter)
        if not queue:
            del self._waiting[lab]
        self._hand_out()  # those behind it may fit where it did not

    def _release(self, lab: str, parts: int) -> None:
        self._taken[lab] -= parts
        if not self._taken[lab]:
            del self._taken[lab]
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            # Of labs with as many, the one that has waited longest: dicts keep their order.
            lab = min(self._waiting, key=lambda name: self._taken[name])
            queue = self._waiting[lab]
            kind, turn = queue[0]
            if not turn.done():
                if not self._fits(kind):
                    return
                self._taken[lab] += self._parts(kind)
                turn.set_result(self._parts(kind))
            queue.popleft()
            if not queue:
                del self._waiting[lab]
