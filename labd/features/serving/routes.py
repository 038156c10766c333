"""The addresses that nodes really have."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from labd.api.models import LabName
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.serving.addresses import Addresses
from labd.model.people import Thing
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


router = APIRouter(prefix="/labs", tags=["labs"])

AddressesDep = Annotated[Addresses, Depends(service(Addresses))]


@router.get("/{lab}/addresses")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def list_addresses(lab: LabName, addresses: AddressesDep) -> NodeAddresses:
    """List the addresses that the running nodes of a lab have: by agent, lease or neighbour table.

    It takes at most about a second, however many guests do not answer.
    """
    found = await addresses.of(lab)
    return NodeAddresses(addresses=[NodeAddress.model_validate(asdict(item)) for item in found])
