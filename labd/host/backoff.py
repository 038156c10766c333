"""Pauses between tries that grow: the one back-off of labd. Pure, but for the clock it is given.

backoff = Backoff(0.2, 30.0, steady=60.0)
while True:
backoff.begin()
await run()
await asyncio.sleep(backoff.pause())
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable


class Backoff:
    """Doubles the pause with each try, up to a bound.

    Args:
        first: Seconds of the first pause.
        last: Seconds that no pause exceeds.
        steady: Seconds that a try must have lasted for the pauses to begin anew.
        jitter: Part of each pause that is drawn by lot, 0 to 1, so that many do not come back at
            one time; a pause is never longer for it.
        clock: Seconds that never go back.
        draw: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        first: float,
        last: float = math.inf,
        *,
        steady: float = math.inf,
        jitter: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._last = first, last
        self._steady, self._jitter = steady, jitter
        self._clock, self._draw = clock, draw
        self._next = first
        self._began = clock()

    def begin(self) -> None:
        """Note that a try begins now."""
        self._began = self._clock()

    def pause(self) -> float:
        """Return the seconds until the next try, of one that has just ended."""
        if self._clock() - self._began > self._steady:
            self.reset()
        pause, self._next = self._next, min(2 * self._next, self._last)
        return pause * (1 - self._jitter * self._draw())

    def reset(self) -> None:
        """Begin anew with the first pause: a try has succeeded."""
        self._next = self._first
