"""Labs that are being loaded, and the work that can wait until none is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Seconds that others wait for them at most: one load that hangs must not hold up every lab.
PATIENCE = 15.0


class Loads:
    """Counts what is being loaded.

    Args:
        patience: How many seconds `rest` waits at most.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._running = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more during the block."""
        self._running += 1
        self._none.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._none.set()

    async def rest(self) -> None:
        """Return when nothing is being loaded, or patience has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._none.wait()
