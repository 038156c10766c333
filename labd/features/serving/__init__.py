"""What labd serves in labs: DHCP, DNS, and the addresses that follow."""

from labd.features.serving.service import Serving

__all__ = [
    "Serving",
]
