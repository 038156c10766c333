"""What the API may ask of warm pools: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.pools import WarmMember, WarmPoolRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPoolView:
    """A pool and how it is.

    Attributes:
        checkpoint: Name of its checkpoint.
        members: The oldest first; who asks for a fork gets the first that is ready.
        memory: Bytes that its members share with nobody.
        reason: Why it is not full, or empty.
    """

    record: WarmPoolRecord
    checkpoint: str
    members: tuple[WarmMember, ...]
    memory: int
    reason: str


class WarmPoolsApi(Protocol):
    """Forks that stand ready before somebody asks for them."""

    async def warm(self, checkpoint: str, size: int) -> WarmPoolView:
        """Keep so many forks of a checkpoint ready; of a pool that is there, change the size.

        They are made in the background.

        Raises:
            InputError: The size is out of range, or the checkpoint cannot work on this host.
            NoRoom: The host cannot hold them; says how many fit.
        """

    async def all(self) -> Sequence[WarmPoolView]:
        """Return all pools by name of their checkpoint."""

    async def get(self, checkpoint: str) -> WarmPoolView:
        """Return the pool of a checkpoint; NotFound when there is none."""

    async def cool(self, checkpoint: str) -> None:
        """End the pool of a checkpoint; its forks that stand ready are gone when this returns."""
