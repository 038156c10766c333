"""Watches over the host's memory, and gives back before the kernel has to kill.

`plan.py` says when; here stands what: the reliefs, in their order, the last of
which pauses the newest lab. Nothing is remembered over a restart: what is paused stays so, and a
host that is still short is found short again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.features.memory.pausing import Pauser
from labd.features.memory.plan import Change, Pressure, Step, marks_of, oom_scores, pace, plan
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.memory import MemoryReading
from labd.model.process import ProcessId
from labd.model.records import LabRecord
from labd.model.states import NODE_ALIVE
from labd.model.units import format_size

log = logging.getLogger(__name__)

# Gives memory back and tells what, in a few words; empty when it has nothing more to give.
Relief = Callable[[], Awaitable[str]]


class MemoryGuard:
    """Level-triggered.

    Attributes:
        reliefs: Tried in this order until one had something to give; labs are paused behind them.
        low: The host is short of memory now.
    """

    def __init__(self, adapters: Adapters, state_writer: StateWriter, pauser: Pauser) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._pauser = pauser
        limits = adapters.limits
        self._marks = marks_of(limits.memory_reserve, limits.pause_below, limits.stall)
        self._state = Pressure()
        self._scores: dict[ProcessId, int] = {}
        self._unchanged: asyncio.Event | None = None  # set when a state has changed since
        self._tick = asyncio.Lock()
        self.reliefs: list[Relief] = []

    @property
    def low(self) -> bool:
        """The host is short of memory now."""
        return self._state.low

    async def run(self) -> None:
        """Look for ever, the more often the less there is."""
        while True:
            wait = 1.0
            with self._adapters.tasks.contained("memory"):  # it is watched on at once
                try:
                    wait = await self.tick()
                except LabdError as error:
                    log.warning("the host's memory cannot be watched: %s", error)
            await asyncio.sleep(wait)

    async def tick(self, now: float | None = None) -> float:
        """Look once and do what is due; return the seconds until the next look."""
        async with self._tick:
            await self._prefer()
            reading = await self._adapters.memory.read()
            step = plan(self._state, reading, self._marks, time.monotonic() if now is None else now)
            # Told first: what is done about it has its reason then.
            await self._tell(step, reading)
            self._state = step.after
            if step.relieve:
                await self._relieve(reading)
            return pace(reading, self._marks)

    async def _tell(self, step: Step, reading: MemoryReading) -> None:
        if step.change is Change.NONE:
            return
        kind = EventType.HOST_MEMORY_LOW if step.change is Change.LOW else EventType.HOST_MEMORY_OK
        log.warning(
            "memory of the host is %s: %s available", step.change, format_size(reading.available)
        )
        await self._state_writer.emit(EventDraft(type=kind, data=self._facts(reading)))

    def _facts(self, reading: MemoryReading) -> dict[str, object]:
        return {
            "available": reading.available,
            "total": reading.total,
            "low": self._marks.low,
            "enough": self._marks.enough,
            "stalled": reading.stalled,
        }

    async def _relieve(self, reading: MemoryReading) -> None:
        for relief in self.reliefs:
            try:
                with self._adapters.tasks.contained("memory"):  # there are others
                    if given := await relief():
                        log.warning("the host is short of memory: %s", given)
                        return
            except LabdError as error:
                log.warning("the host is short of memory, and cannot be relieved: %s", error)
        why = (
            f"the host is short of memory ({format_size(reading.available)} available); stop other "
            "labs, then resume it"
        )
        for lab, nodes in await self._pauser.running():
            if self._pauser.bears(lab.name) and await self._pauser.pause(
                lab.name, nodes, "memory-pressure", why, self._facts(reading)
            ):
                return
        log.warning("the host is short of memory, and no lab can be paused")

    async def _prefer(self) -> None:
        """Have the kernel kill the newest lab's QEMUs first, and labd last."""
        if self._unchanged is not None and not self._unchanged.is_set():
            return  # rows are read only when there is something new in them
        self._unchanged = self._state_writer.anything_changed()
        processes: dict[str, list[ProcessId]] = {}
        for node in await self._adapters.inventory.nodes():
            if node.process is not None and node.state in NODE_ALIVE:
                processes.setdefault(node.lab, []).append(node.process)
        labs = [lab for lab in await self._adapters.inventory.labs() if lab.name in processes]
        labs.sort(key=_age)
        scores = oom_scores([processes[lab.name] for lab in labs])
        changed = {item: score for item, score in scores.items() if self._scores.get(item) != score}
        if changed:
            await self._adapters.memory.prefer(changed)
        self._scores = scores


def _age(lab: LabRecord) -> tuple[str, str]:
    return lab.created, lab.name
