"""Bounds what waits for a broker that is away: by number and by age, told well before.

Events that nobody publishes would fill the disk in the end. So the oldest are given up when there
are too many, or when they are too old: the publisher goes on behind them, and the answer of a
replay says from which `seq` on there are events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from labd.host.doctor import Finding, Level
from labd.model.errors import LabdError
from labd.model.events import Event, EventDraft, EventType

log = logging.getLogger(__name__)

_EVERY = 10.0  # seconds
_WARN = 0.5  # of a bound, from which on it is told
_LEFT = 0.9  # of a bound, to which it is gone back at once, so that each step is worth an event
_SCAN = 500  # events read at once
_STEP = 1_000  # events given up by one commit
_DAY: Final = 86_400.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLimits:
    """Bounds of what waits for the broker.

    Attributes:
        events: Number.
        age: Seconds since the oldest.
    """

    events: int
    age: float


class Emitter(Protocol):
    """What is needed of a transaction."""

    async def emit(self, draft: EventDraft) -> Event:
        """Put an event in the outbox."""


class Outbox(Protocol):
    """What is needed of an inventory."""

    def transaction(self) -> AbstractAsyncContextManager[Emitter]:
        """Begin a transaction."""

    async def events(self, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with `seq > after` in order."""

    async def last_seq(self) -> int:
        """Return the highest seq, 0 when none."""

    async def published_seq(self) -> int:
        """Return the seq up to which nothing waits."""

    async def mark_published(self, seq: int) -> None:
        """Say that nothing up to `seq` waits."""


class OutboxGuard:
    """Looks at the outbox every ten seconds.

    Args:
        outbox: The inventory.
        limits: Its bounds.
        clock: Seconds since 1970.
    """

    def __init__(
        self, outbox: Outbox, limits: OutboxLimits, clock: Callable[[], float] = time.time
    ) -> None:
        self._outbox, self._limits, self._clock = outbox, limits, clock
        self._told = False
        self._waiting, self._age = 0, 0.0

    async def run(self) -> None:
        """Look for ever; a failure of the inventory is logged, and tried again."""
        while True:
            try:
                await self.tick()
            except LabdError as error:
                log.warning("the outbox cannot be looked at: %s", error)
            await asyncio.sleep(_EVERY)

    async def tick(self) -> None:
        """Look once: give up what is beyond the bounds, tell what nears them."""
        await self._look()
        limits = self._limits
        if self._waiting > limits.events or self._age > limits.age:
            await self._give_up()
            await self._look()
        full = max(self._waiting / limits.events, self._age / limits.age)
        if full >= _WARN and not self._told:
            self._told = True
            data = {"waiting": self._waiting, "limit": limits.events, "age": round(self._age)}
            log.warning("%s", self.finding().text)
            async with self._outbox.transaction() as tx:
                await tx.emit(EventDraft(type=EventType.OUTBOX_FILLING, data=data))
        elif full < _WARN / 2:
            self._told = False

    def finding(self) -> Finding:
        """Return the line of `lab doctor`, as it was at the last look."""
        limits = self._limits
        if max(self._waiting / limits.events, self._age / limits.age) < _WARN:
            text = f"{self._waiting} events wait for the broker"
            return Finding(name="outbox", level=Level.OK, text=text)
        return Finding(
            name="outbox",
            level=Level.WARN,
            text=f"{self._waiting} events wait for the broker, the oldest for "
            f"{self._age / _DAY:.1f} days; at {limits.events} events or {limits.age / _DAY:g} days "
            "the oldest are given up",
            advice="bring the broker back, or raise outbox_events and outbox_days of [broker] in "
            "labd.toml",
        )

    async def _look(self) -> None:
        done = await self._outbox.published_seq()
        self._waiting = await self._outbox.last_seq() - done
        oldest = await self._outbox.events(done, 1) if self._waiting else ()
        self._age = max(self._clock() - _seconds(oldest[0]), 0.0) if oldest else 0.0

    async def _give_up(self) -> None:
        done, last = await self._outbox.published_seq(), await self._outbox.last_seq()
        upto = done
        if self._waiting > self._limits.events:
            upto = last - int(self._limits.events * _LEFT)
        if self._age > self._limits.age:
            upto = await self._older_than(self._clock() - self._limits.age * _LEFT, upto)
        log.error(
            "events %d to %d were never published, and are given up: the broker is away for too "
            "long; whoever needs them reads the present state instead",
            done + 1,
            upto,
        )
        data = {"first": done + 1, "last": upto}
        async with self._outbox.transaction() as tx:
            await tx.emit(EventDraft(type=EventType.OUTBOX_DROPPED, data=data))
        for seq in range(min(done + _STEP, upto), upto + _STEP, _STEP):
            await self._outbox.mark_published(min(seq, upto))

    async def _older_than(self, moment: float, upto: int) -> int:
        """Return the seq of the last event from before a moment, at least `upto`."""
        while events := await self._outbox.events(upto, _SCAN):
            old = [event.seq for event in events if _seconds(event) < moment]
            upto = max(old, default=upto)
            if len(old) < len(events):
                break
        return upto


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event.time.replace("Z", "+00:00")).timestamp()
