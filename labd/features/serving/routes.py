"""The addresses that nodes really have."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from labd.api.callers import EngineDep
from labd.features import models
from labd.features.serving.models import NodeAddress, NodeAddresses

router = APIRouter(prefix="/labs", tags=["labs"])


@router.get("/{lab}/addresses")
async def list_addresses(lab: models.LabName, engine: EngineDep) -> NodeAddresses:
    """List the addresses that the running nodes of a lab have: by agent, lease or neighbour table.

    It takes at most about a second, however many guests do not answer.
    """
    found = await engine.addresses.of(lab)
    return NodeAddresses(addresses=[NodeAddress.model_validate(asdict(item)) for item in found])
