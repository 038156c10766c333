"""What the API tells of the addresses of nodes."""

from __future__ import annotations

from pydantic import BaseModel

from labd.model.serving import AddressSource


class NodeAddress(BaseModel):
    """An address that a node has, and who says so."""

    node: str
    nic: str
    mac: str
    address: str
    source: AddressSource


class NodeAddresses(BaseModel):
    """The addresses of a lab's nodes."""

    addresses: list[NodeAddress]
