"""The seam to what nodes take of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from labd.model.activity import Glance
from labd.model.usage import PortUsage


class Counters(Protocol):
    """Counters of the network."""

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        """Return interface name -> what has passed it; empty where there is no such namespace.

        Raises:
            NetworkFailed: The kernel refused.
        """

    async def glance(self, namespace: str) -> Glance:
        """Return what has passed the taps, and when a byte last passed a connection.

        It is cheap enough to be asked often; empty where there is no such namespace.

        Raises:
            NetworkFailed: The kernel refused.
        """
