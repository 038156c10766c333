"""What the API may ask about the addresses of nodes; `features.serving.addresses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labd.model.serving import NodeAddress


class AddressesApi(Protocol):
    """The addresses that nodes really have."""

    async def of(self, lab: str) -> Sequence[NodeAddress]:
        """Return the addresses of a lab's running nodes, and who says so.

        Each node's guest agent is asked first, then the leases, then the kernel's neighbour table;
        a guest that does not answer within a second holds up no other.

        Raises:
            NotFound: There is no such lab.
        """
