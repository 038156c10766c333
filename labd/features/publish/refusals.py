"""Connections to published ports that were refused: counted, and told once a minute a lab."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from labd.host.supervision import TaskSupervisor, cancel_all
from labd.inventory.port import Inventory
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.publish import Bound

log = logging.getLogger(__name__)

_EVERY = 60.0  # seconds between two events of one lab
_NAMED = 10  # nodes that an event names


class Refusals:
    """Emits `lab.connections-refused`: the first at once, what comes later together.

    Args:
        inventory: Takes the events.
        tasks: Run what emits them.
        every: Seconds between two events of one lab.
    """

    def __init__(self, inventory: Inventory, tasks: TaskSupervisor, every: float = _EVERY) -> None:
        self._supervisor = tasks
        self._inventory = inventory
        self._every = every
        self._counts: dict[str, Counter[tuple[str, Bound]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def count(self, ref: NodeRef, bound: Bound) -> None:
        """Count a connection to a node that was refused because of a bound."""
        self._counts.setdefault(ref.lab, Counter())[ref.node, bound] += 1
        if ref.lab not in self._tasks:
            self._tasks[ref.lab] = self._supervisor.spawn("refusals", self._emit(ref.lab))

    async def _emit(self, lab: str) -> None:
        try:
            while (counts := self._counts.pop(lab, None)) is not None:
                try:
                    await self._write(lab, counts)
                except LabdError as error:
                    log.warning("lab %s refused %d connections: %s", lab, counts.total(), error)
                await asyncio.sleep(self._every)
        finally:
            self._tasks.pop(lab, None)

    async def _write(self, lab: str, counts: Counter[tuple[str, Bound]]) -> None:
        nodes = sorted({node for node, _ in counts})
        data: dict[str, object] = {
            "count": counts.total(),
            "bounds": sorted({str(bound) for _, bound in counts}),
            "nodes": nodes[:_NAMED],
        }
        async with self._inventory.transaction() as tx:
            if await self._inventory.lab(lab) is not None:
                kind = EventType.LAB_CONNECTIONS_REFUSED
                await tx.emit(EventDraft(type=kind, lab=lab, data=data))

    async def close(self) -> None:
        """Stop; what was counted since the last event goes to the log."""
        await cancel_all(list(self._tasks.values()))
        for lab, counts in self._counts.items():
            log.info("lab %s refused %d connections since the last event", lab, counts.total())
