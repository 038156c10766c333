"""The seam to control groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labd.model.cgroups import Member


class Cgroups(Protocol):
    """Groups of labs and machines. Where the host has none that can bound, nothing is done."""

    def works(self) -> bool:
        """Tell whether this host has groups that bound machines."""

    async def hold(self, members: Sequence[Member]) -> Sequence[str]:
        """Have each machine in its group, with its bounds, and no other group (idempotent).

        A machine that has ended is left out. Returns what could not be done, a line each.
        """

    async def groups(self) -> Sequence[str]:
        """Return the groups of machines of this root, each as `LAB KEY/MACHINE KEY`."""

    async def outside(self, members: Sequence[Member]) -> Sequence[str]:
        """Return the keys of the machines that live and are not in their groups."""
