"""The memory of the host as it is at a moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """What the kernel says.

    Attributes:
        total: Bytes of the host.
        available: Bytes that can be given out without swapping (`MemAvailable`, proc(5)).
        stalled: Percent of the last ten seconds in which every task waited for memory (`full
            avg10` of /proc/pressure/memory); 0 where the kernel does not tell.
    """

    total: int
    available: int
    stalled: float = 0.0
