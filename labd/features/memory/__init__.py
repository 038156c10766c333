"""Memory and disk of the host: pressure, pauses, control groups."""

from labd.features.memory.service import MemoryGuard

__all__ = [
    "MemoryGuard",
]
