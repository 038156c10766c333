"""A token bucket: the one rate limiter of labd. Pure, but for the clock it is given."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimiter:
    """Lets `rate` tokens a second pass on average, and `burst` at once after a pause.

    Args:
        rate: Tokens a second.
        burst: Tokens that a full bucket holds.
        clock: Seconds that never go back.

    Attributes:
        used: When it was asked last, by the clock.
    """

    def __init__(
        self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst = rate, burst
        self._clock = clock
        self._level = float(burst)
        self.used = clock()

    def take(self) -> float:
        """Take one token; return 0, or the seconds until there is one, with none taken."""
        self._fill()
        if self._level < 1:
            return (1 - self._level) / self.rate
        self._level -= 1
        return 0.0

    def owe(self, tokens: float = 1) -> float:
        """Take tokens in any case; return the seconds to wait until they are paid for, or 0."""
        self._fill()
        self._level -= tokens
        return max(0.0, -self._level / self.rate)

    def refill(self) -> None:
        """Forgive what is owed: the bucket is full."""
        self._level = float(self.burst)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self.used) * self.rate)
        self.used = now
