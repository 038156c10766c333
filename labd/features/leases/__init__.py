"""Leases: until when labs run."""

from labd.features.leases.routes import Extension
from labd.features.leases.schemas import _SECONDS, Lease, LeaseTerm, lease_ask, show_lease
from labd.features.leases.service import Leasing
from labd.features.leases.views import LeaseView

__all__ = [
    "_SECONDS",
    "Extension",
    "Lease",
    "LeaseTerm",
    "LeaseView",
    "Leasing",
    "lease_ask",
    "show_lease",
]
