"""How often, and how much at once, a caller may ask: nobody takes labd from the others.

Administrators are not bounded: they own the host. The numbers are by role; those of students may
be set in labd.toml.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Scope

from labd.api import problems
from labd.host.config_people import LimitsConfig
from labd.host.ratelimit import RateLimiter
from labd.model.people import Role

_FORGET = 1_000  # callers whose buckets are kept at most, but for those that are in use


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one caller may do.

    Attributes:
        rate: Requests a second, on average.
        burst: Requests at once after a pause.
        streams: WebSockets that are open at one time.
        commands: Commands in guests that run at one time.
        under_way: Requests of all kinds at one time.
    """

    rate: float
    burst: int
    streams: int
    commands: int
    under_way: int


STUDENT = Bounds(rate=20, burst=60, streams=32, commands=8, under_way=64)
_INSTRUCTOR = Bounds(rate=100, burst=500, streams=256, commands=64, under_way=512)
_PLUGIN = Bounds(rate=500, burst=2_000, streams=256, commands=256, under_way=1_024)
# Who cannot say who they are, by where they come from.
STRANGER = Bounds(rate=5, burst=20, streams=0, commands=0, under_way=64)


def bounds_of(student: Bounds = STUDENT) -> Mapping[Role, Bounds]:
    """Return the bounds by role; a role without any is not bounded."""
    return {Role.STUDENT: student, Role.INSTRUCTOR: _INSTRUCTOR, Role.PLUGIN: _PLUGIN}


def student_bounds(limits: LimitsConfig) -> Bounds:
    """Return the bounds of a student that the configuration asks for."""
    return Bounds(
        rate=limits.student_requests,
        burst=3 * limits.student_requests,
        streams=limits.student_streams,
        commands=limits.student_commands,
        under_way=limits.student_streams + limits.student_commands + 24,
    )


class Meter:
    """Counts what callers ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limiters: dict[str, RateLimiter] = {}
        self._open: Counter[tuple[str, str]] = Counter()

    def take(self, who: str, rate: float, burst: int) -> float:
        """Count one request; return 0, or the seconds until the caller may ask again."""
        limiter = self._limiters.get(who)
        if limiter is None:
            self._forget()
            limiter = self._limiters[who] = RateLimiter(rate, burst, clock=self._clock)
        limiter.rate = rate  # whoever has another role by now
        return limiter.take()

    def _forget(self) -> None:
        """Forget the callers that were silent for longest; a full bucket tells nothing."""
        if len(self._limiters) < _FORGET:
            return
        oldest = sorted(self._limiters, key=lambda name: self._limiters[name].used)
        for name in oldest[: _FORGET // 2]:
            del self._limiters[name]

    def require(self, who: str, bounds: Bounds) -> None:
        """Count one request.

        Raises:
            TooMany: The caller asked too often; the message has the seconds to wait.
        """
        wait = self.take(who, bounds.rate, bounds.burst)
        if wait:
            raise too_many(f"{who} asks too often", wait)

    @contextmanager
    def under_way(self, who: str, bounds: Bounds, scope: Scope) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            TooMany: The caller has too many of its kind under way.
        """
        kinds = [("requests", bounds.under_way)]
        if scope["type"] == "websocket":
            kinds.append(("streams", bounds.streams))
        elif str(scope["path"]).endswith("/exec"):
            kinds.append(("commands", bounds.commands))
        for kind, most in kinds:
            if self._open[who, kind] >= most:
                raise too_many(f"{who} has {most} {kind} under way, and more are not allowed", 1.0)
        for kind, _ in kinds:
            self._open[who, kind] += 1
        try:
            yield
        finally:
            for kind, _ in kinds:
                self._open[who, kind] -= 1
                if not self._open[who, kind]:
                    del self._open[who, kind]


def too_many(what: str, wait: float) -> problems.TooMany:
    """Return the error, with the seconds after which it is worth to ask again."""
    after = max(1, math.ceil(wait))
    return problems.TooMany(f"{what}: wait {after} s and ask again", retry_after=after)
