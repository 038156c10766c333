"""Slots for nodes that boot: a bounded number at once, shared fairly between labs."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# Seconds after which a node that is still not ready gives its slot back: a guest that never gets
# ready must not hold up those who come after it. The kernel of a guest has long started by then.
HOLD = 15.0


class BootSlots:
    """At most `size` slots are taken; a free one goes to the lab that has the fewest.

    Args:
        size: How many nodes boot at one time.
        hold: Seconds for which a node has its slot at most.
    """

    def __init__(self, size: int, hold: float = HOLD) -> None:
        self.size = size
        self._hold = hold
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def taken(self) -> int:
        """Return how many slots are taken."""
        return self._taken.total()

    @asynccontextmanager
    async def take(self, lab: str) -> AsyncIterator[None]:
        """Have a slot during the block, for `hold` seconds at most."""
        await self._acquire(lab)
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._release(lab)

        timer = asyncio.get_running_loop().call_later(self._hold, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    async def _acquire(self, lab: str) -> None:
        if self.taken < self.size and not self._waiting:
            self._taken[lab] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lab, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(lab)  # it was given a slot at the very moment
            else:
                self._leave(lab, turn)
            raise

    def _leave(self, lab: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(lab)
        if queue is None:
            return
        with suppress(ValueError):
            queue.remove(turn)
        if not queue:
            del self._waiting[lab]

    def _release(self, lab: str) -> None:
        self._taken[lab] -= 1
        if not self._taken[lab]:
            del self._taken[lab]
        while self._waiting and self.taken < self.size:
            # Of labs with as many, the one that has waited longest: dicts keep their order.
            next_lab = min(self._waiting, key=lambda name: self._taken[name])
            turn = self._waiting[next_lab].popleft()
            if not self._waiting[next_lab]:
                del self._waiting[next_lab]
            if not turn.done():
                self._taken[next_lab] += 1
                turn.set_result(None)
