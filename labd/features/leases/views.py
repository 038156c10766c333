"""What the service of leases returns."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.lab_leases import LabLease


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
