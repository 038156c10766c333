"""The seam to the memory of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from labd.model.memory import MemoryReading
from labd.model.process import ProcessId


class HostMemory(Protocol):
    """What is left, and who goes first when nothing is."""

    async def read(self) -> MemoryReading:
        """Return how it stands."""

    async def prefer(self, scores: Mapping[ProcessId, int]) -> None:
        """Say whom the kernel shall kill first, if it must kill: the highest of -1000 to 1000.

        It is told of processes, and ends with them (`oom_score_adj`, proc(5)). Those that have
        ended are left out.
        """
