"""Activity in labs: who did what last, kept in memory, and what the network shows.

What goes through labd is marked as it happens. Bytes on connections that were handed out, and
packets, do not pass labd: the kernel is asked for them every `EVERY` seconds. A daemon that starts
knows nothing of what was before, and takes each lab that runs for active at that moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.core.state_writer import StateWriter
from labd.features.activity.views import ActivityView
from labd.model.activity import BACKGROUND, Glance, Source
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.records import LabRecord
from labd.model.states import NODE_ALIVE, NodeState
from labd.model.units import rfc3339

log = logging.getLogger(__name__)

EVERY = 15.0  # seconds between two looks at all labs; a look takes less than a millisecond per lab
_FRESH = 1.0  # seconds for which a look is good enough for a question
_AWAKE = NODE_ALIVE - {NodeState.PAUSED}
_MINUTE = 60.0
_RATE_OVER = 5.0  # seconds; a rate over less says nothing


@dataclass(slots=True)
class Tap:
    """The packets of one tap, as a bucket that leaks at the rate of mere chatter.

    Attributes:
        packets: The counter at the last look.
        level: Packets that were more than the chatter.
    """

    packets: int
    level: float = 0.0

    def look(self, packets: int, elapsed: float, background: float) -> bool:
        """Take a new reading; tell whether it is more than chatter.

        One minute's worth of it may come at once, as when a lab's routers find each other.
        """
        new = packets - self.packets if packets >= self.packets else packets  # its QEMU is new
        self.packets = packets
        self.level = max(0.0, self.level - elapsed * background / _MINUTE) + new
        if self.level <= background:
            return False
        self.level = 0.0
        return True


@dataclass(slots=True)
class Seen:
    """What is known of one lab. Times are seconds of CLOCK_BOOTTIME."""

    since: float
    marks: dict[Source, float] = field(default_factory=dict)
    busy: Counter[Source] = field(default_factory=Counter)
    taps: dict[str, Tap] = field(default_factory=dict)
    looked: float | None = None
    rate: float = 0.0

    def mark(self, source: Source, at: float) -> None:
        """Note an activity; one that is older than what is known changes nothing."""
        self.marks[source] = max(at, self.marks.get(source, at))

    def take(self, glance: Glance, now: float, background: float) -> None:
        """Take what the network shows."""
        if glance.quiet is not None and now - glance.quiet > self.since:
            self.mark(Source.CONNECTION, now - glance.quiet)
        elapsed = now - self.looked if self.looked is not None else 0.0
        if elapsed >= _RATE_OVER:
            news = [
                count - tap.packets
                for name, count in glance.packets.items()
                if (tap := self.taps.get(name)) is not None
            ]
            self.rate = max([0, *news]) * _MINUTE / elapsed
        for name, count in glance.packets.items():
            known = self.taps.setdefault(name, Tap(count))
            if known.look(count, elapsed, background):
                self.mark(Source.TRAFFIC, now)
        self.taps = {name: tap for name, tap in self.taps.items() if name in glance.packets}
        self.looked = now

    def at(self, now: float) -> Mapping[Source, float]:
        """Return source -> when last; what is going on is now."""
        going = dict.fromkeys((s for s, count in self.busy.items() if count), now)
        return {Source.START: self.since, **self.marks, **going}


class ActivityService:
    """Keeps when each lab was used last, and tells how long it has been idle."""

    def __init__(
        self, adapters: Adapters, state_writer: StateWriter, operations: Operations
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._seen: dict[str, Seen] = {}
        self._looking = asyncio.Lock()

    # marking

    def touch(self, lab: str, source: Source) -> None:
        """Note that something was done with a lab now."""
        self._of(lab).mark(source, self._now())

    @contextmanager
    def during(self, lab: str, source: Source) -> Iterator[None]:
        """Note that something is done with a lab for as long as the block runs."""
        seen = self._of(lab)
        seen.busy[source] += 1
        try:
            yield
        finally:
            seen.busy[source] -= 1
            seen.mark(source, self._now())

    def _now(self) -> float:
        return self._adapters.moment().boottime

    def _of(self, lab: str) -> Seen:
        return self._seen.setdefault(lab, Seen(self._now()))

    # asking

    async def all(self) -> Sequence[ActivityView]:
        """Return the activity in each lab of which a node runs, by name.

        Of connections and packets as of the last look at all labs: this is quick with many labs.
        """
        return [self._view(name) for name in sorted(await self._running())]

    async def get(self, lab: str) -> ActivityView:
        """Return the activity in a lab as of now; NotFound when there is none of that name."""
        await self._state_writer.lab(lab)
        running = await self._running()
        if lab not in running:
            return ActivityView(lab=lab, running=False)
        await self._look({lab: running[lab]}, _FRESH)
        return self._view(lab)

    async def warn(self, lab: str, *, by: str, reason: str, text: str, left: float | None) -> None:
        """Tell everybody, by an event, what is about to happen to a lab.

        Args:
            lab: Its name; NotFound when there is none.
            by: Who warns.
            reason: One word for programs, such as `idle`.
            text: For people.
            left: Seconds until it happens.
        """
        await self._state_writer.lab(lab)
        data = {"by": by, "reason": reason, "text": text, "left": left}
        await self._state_writer.emit(EventDraft(type=EventType.LAB_WARNING, lab=lab, data=data))

    def _view(self, lab: str) -> ActivityView:
        moment, seen = self._adapters.moment(), self._of(lab)
        now = moment.boottime
        if self._operations.holder(lab) is not None:
            seen.mark(Source.OPERATION, now)
        ago = {source: max(0.0, now - at) for source, at in seen.at(now).items()}
        source = min(ago, key=lambda key: (ago[key], key is Source.START))
        return ActivityView(
            lab=lab,
            running=True,
            since=rfc3339(moment.wall - (now - seen.since)),
            last=rfc3339(moment.wall - ago[source]),
            idle=ago[source],
            source=source,
            sources=ago,
            rate=seen.rate,
        )

    # looking

    async def run(self) -> None:
        """Look at all labs for ever."""
        while True:
            try:
                await self.tick()
            except LabdError as error:
                log.warning("the activity in labs cannot be looked at: %s", error)
            await asyncio.sleep(EVERY)

    async def tick(self) -> None:
        """Look once, and forget labs that do not run."""
        running = await self._running()
        self._seen = {
            name: seen
            for name, seen in self._seen.items()
            if name in running or seen.busy.total() > 0
        }
        await self._look(running, 0.0)

    async def _running(self) -> Mapping[str, LabRecord]:
        alive = {
            node.lab for node in await self._adapters.inventory.nodes() if node.state in _AWAKE
        }
        return {lab.name: lab for lab in await self._adapters.inventory.labs() if lab.name in alive}

    async def _look(self, labs: Mapping[str, LabRecord], fresh: float) -> None:
        async with self._looking:
            for name, lab in labs.items():
                seen = self._of(name)
                if seen.looked is not None and self._now() - seen.looked < fresh:
                    continue
                now = self._now()  # of before: the answer makes no connection newer than it is
                try:
                    with self._adapters.tasks.contained("activity"):  # of the others it is seen
                        glance = await self._adapters.counters.glance(self._adapters.namespace(lab))
                        seen.take(glance, now, BACKGROUND)
                except LabdError as error:
                    log.info("lab %s: its network tells nothing: %s", name, error)
