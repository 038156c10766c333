"""`Client.addresses`: the addresses that nodes really have."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client import types
    from labd.client.transport import Transport


class Addresses:
    """Requests about addresses, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def of(self, lab: str) -> list[types.NodeAddress]:
        """Return the addresses of a lab's running nodes, and who says so."""
        path = f"/v1/labs/{quote(lab, safe='')}/addresses"
        found: list[types.NodeAddress] = self._transport.json("GET", path)["addresses"]
        return found
