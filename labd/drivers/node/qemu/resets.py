"""How often the resets of one machine are told.

QEMU sends a RESET each time, without the limit that it has for other events a guest can cause, and
a guest may reset itself a thousand times a second. Each told event is a row and a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from labd.model.machine import GuestEvent

SINGLY: Final = 10  # resets in a window that are told one by one
WINDOW: Final = 10.0  # seconds
TOGETHER: Final = 1.0  # seconds between two events of a storm


class ResetMeter:
    """Tells resets one by one, and those of a storm together, with their `count`.

    Args:
        tell: Takes what is told, in the order of time.
    """

    def __init__(self, tell: Callable[[GuestEvent], None]) -> None:
        self._report = tell
        self._began = -WINDOW
        self._in_window = 0
        self._held: GuestEvent | None = None
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, event: GuestEvent) -> None:
        """Take one reset; it is told now, or with others within a second."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._began >= WINDOW:
            self._began, self._in_window = loop.time(), 0
        self._in_window += 1
        if self._in_window <= SINGLY and self._held is None:
            self._report(event)
            return
        self._held = event
        self._count += 1
        if self._timer is None:
            self._timer = loop.call_later(TOGETHER, self.flush)

    def flush(self) -> None:
        """Tell what is held: before anything else of the machine is told, and at its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, count = self._held, self._count
        self._held, self._count = None, 0
        if held is not None:
            self._report(replace(held, data={**held.data, "count": count}))
