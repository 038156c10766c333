"""The use of a `FakeEngine`'s host: each look finds two seconds and a bit of work more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from labd.features.usage.views import Usage
from labd.model.records import NodeRecord
from labd.model.usage import HostUsage, NodeUsage, PortUsage, ProcessUsage

MIB = 1 << 20


class FakeUsageApi:
    """Implements `UsageApi`; `lab` raises for labs that are not there."""

    def __init__(
        self, lab: Callable[[str], Awaitable[object]], nodes: Callable[[], Iterable[NodeRecord]]
    ) -> None:
        self._lab = lab
        self._nodes = nodes
        self.looks = 0

    async def look(self, lab: str = "") -> Usage:
        if lab:
            await self._lab(lab)
        self.looks += 1
        n = self.looks
        return Usage(
            time="2026-01-01T00:00:00.000000Z",
            clock=2.0 * n,
            host=HostUsage(
                cpus=2, memory=24 << 30, memory_available=20 << 30, disk_available=70 << 30
            ),
            nodes=[
                NodeUsage(
                    lab=node.lab,
                    node=node.name,
                    state="ready",
                    vcpus=1,
                    memory=128 * MIB,
                    process=ProcessUsage(
                        cpu=1.0 * n, own=40 * MIB, shared=80 * MIB, written=2 * MIB * n
                    ),
                    ports=PortUsage(
                        received_packets=20 * n,
                        sent_packets=10 * n,
                        received_bytes=2000 * n,
                        sent_bytes=1000 * n,
                    ),
                )
                for node in self._nodes()
                if lab in {"", node.lab}
            ],
        )
