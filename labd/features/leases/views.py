"""What the API may ask of leases: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.lab_leases import LabLease, LeaseAsk


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease and when it does what.

    Attributes:
        ends: RFC 3339 UTC at which the lab is, or was, stopped.
        destroys: RFC 3339 UTC at which it is destroyed.
        left: Seconds until `ends`, 0 when that is over.
    """

    lease: LabLease
    ends: str
    destroys: str
    left: float


class LeasesApi(Protocol):
    """Deadlines of labs."""

    async def all(self) -> Sequence[LeaseView]:
        """Return all leases by lab."""

    async def get(self, lab: str) -> LeaseView:
        """Return the lease of a lab; NotFound when it has none."""

    async def set(self, lab: str, ask: LeaseAsk) -> LeaseView:
        """Give a lab a lease, in place of the one that it has.

        Raises:
            InputError: It would be over at once, or is too long.
            NotFound: There is no such lab.
        """

    async def extend(self, lab: str, seconds: float) -> LeaseView:
        """Let a lease last longer; one that has ended begins again.

        Raises:
            InputError: It would not be longer, or too long.
            NotFound: The lab has none.
        """

    async def cancel(self, lab: str) -> None:
        """Let a lab be without a lease; NotFound when it has none."""
