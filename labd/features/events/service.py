"""The durable stream of events, by their sequence numbers."""

from __future__ import annotations

from collections.abc import Sequence

from labd.core.adapters import Adapters
from labd.model.events import Event


class EventStream:
    """Reads the outbox; nothing is ever taken out of it by a reader."""

    def __init__(self, adapters: Adapters) -> None:
        self._inventory = adapters.inventory

    async def after(self, seq: int, limit: int) -> Sequence[Event]:
        """Return at most `limit` events after a seq, in order."""
        return await self._inventory.events(seq, limit)

    async def bounds(self) -> tuple[int, int]:
        """Return the lowest kept and the highest seq (1, 0 when there is none)."""
        return await self._inventory.first_seq(), await self._inventory.last_seq()

    async def wait(self, seq: int) -> int:
        """Wait until there are events after `seq`; return the highest."""
        return await self._inventory.wait_events(seq)
