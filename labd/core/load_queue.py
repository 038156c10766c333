"""Labs that are being loaded, and the work that can wait until they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Seconds that others wait for them at most: one load that hangs must not hold up every lab.
PATIENCE = 15.0


class LoadQueue:
    """Knows what is being loaded.

    Args:
        patience: How many seconds `quiet` waits at most.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._running: set[asyncio.Event] = set()  # each is set when its load ends

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Have it known during the block that something is being loaded."""
        over = asyncio.Event()
        self._running.add(over)
        try:
            yield
        finally:
            self._running.discard(over)
            over.set()

    async def quiet(self) -> None:
        """Return when all that is being loaded now is no more, or patience has ended.

        What begins later is not waited for: labs that start one after another would have the first
        wait for the last.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                for over in tuple(self._running):
                    await over.wait()
