"""Leases: until when labs may run."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from labd.api import models
from labd.api.models import LabName
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.leases import schemas
from labd.features.leases.service import Leasing
from labd.model.people import Thing

router = APIRouter(tags=["leases"])

LeasesDep = Annotated[Leasing, Depends(service(Leasing))]


class Leases(models.Wire):
    """All leases by lab."""

    leases: list[schemas.Lease]


class Extension(models.Body):
    """Let a lease last longer."""

    seconds: float = Field(ge=-1e10, le=1e10)


@router.get("/leases")
@requires(Scope.LABS_READ)
async def list_leases(leases: LeasesDep, policy: PolicyDep) -> Leases:
    """List the leases of the labs that the caller may see."""
    seen = await policy.labs()
    found = [view for view in await leases.all() if view.lease.lab in seen]
    return Leases(leases=[schemas.show_lease(view) for view in found])


@router.get("/labs/{lab}/lease")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def get_lease(lab: LabName, leases: LeasesDep) -> schemas.Lease:
    """Return the lease of a lab."""
    return schemas.show_lease(await leases.get(lab))


@router.put("/labs/{lab}/lease")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def set_lease(lab: LabName, body: schemas.LeaseTerm, leases: LeasesDep) -> schemas.Lease:
    """Give a lab a lease, in place of the one that it has."""
    return schemas.show_lease(await leases.set(lab, schemas.lease_ask(body)))


@router.post("/labs/{lab}/lease/extend")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def extend_lease(lab: LabName, body: Extension, leases: LeasesDep) -> schemas.Lease:
    """Let a lease last longer; one that has ended begins again."""
    return schemas.show_lease(await leases.extend(lab, body.seconds))


@router.delete("/labs/{lab}/lease", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def cancel_lease(lab: LabName, leases: LeasesDep) -> None:
    """Let a lab run for ever."""
    await leases.cancel(lab)
