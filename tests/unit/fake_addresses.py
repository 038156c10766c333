"""The addresses of a `FakeEngine`: every lab has one node with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from labd.model.serving import AddressSource, NodeAddress


class FakeAddresses:
    """Implements `AddressesApi`; `lab` raises for what is not there."""

    def __init__(self, lab: Callable[[str], Awaitable[object]]) -> None:
        self._lab = lab

    async def of(self, lab: str) -> Sequence[NodeAddress]:
        await self._lab(lab)
        return [
            NodeAddress(
                node="server",
                nic="eth0",
                mac="02:00:00:00:00:01",
                address="10.0.0.5",
                source=AddressSource.LEASE,
            )
        ]
