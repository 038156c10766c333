"""The seam to what the host has of labd's: see `engine.fsck`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labd.model.differences import Trace


class Traces(Protocol):
    """What this root's labds have made on the host, of some sorts.

    Whoever brings a new sort of thing to the host adds one of these to `World.traces`.
    """

    async def find(self) -> Sequence[Trace]:
        """Return everything of these sorts, whether somebody needs it or not.

        Raises:
            WorldError: The host cannot be looked at.
        """

    async def remove(self, trace: Trace) -> None:
        """Remove one that `find` returned with a remedy (idempotent).

        Raises:
            WorldError: It stays.
        """
