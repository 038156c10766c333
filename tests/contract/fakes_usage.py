"""Counters of taps, as if each had passed one packet each way."""

from __future__ import annotations

from collections.abc import Mapping

from labd.model.usage import PortUsage

ONE = PortUsage(received_packets=1, sent_packets=1, received_bytes=60, sent_bytes=60)


class _Any(dict[str, PortUsage]):
    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> PortUsage:
        return ONE


class FakeCounters:
    """Implements the port `Counters`."""

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        return _Any()
