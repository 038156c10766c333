"""Leases: until when labs may run."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from pydantic import Field

from labd.api.callers import EngineDep
from labd.api.policy import PolicyDep
from labd.features import models, views

router = APIRouter(tags=["leases"])


class Leases(models.Wire):
    """All leases by lab."""

    leases: list[models.Lease]


class Extension(models.Body):
    """Let a lease last longer."""

    seconds: float = Field(ge=-1e10, le=1e10)


@router.get("/leases")
async def list_leases(engine: EngineDep, policy: PolicyDep) -> Leases:
    """List the leases of the labs that the caller may see."""
    seen = await policy.labs(engine)
    found = [view for view in await engine.leases.all() if view.lease.lab in seen]
    return Leases(leases=[views.lease(view) for view in found])


@router.get("/labs/{lab}/lease")
async def get_lease(lab: models.LabName, engine: EngineDep) -> models.Lease:
    """Return the lease of a lab."""
    return views.lease(await engine.leases.get(lab))


@router.put("/labs/{lab}/lease")
async def set_lease(lab: models.LabName, body: models.LeaseTerm, engine: EngineDep) -> models.Lease:
    """Give a lab a lease, in place of the one that it has."""
    return views.lease(await engine.leases.set(lab, views.lease_ask(body)))


@router.post("/labs/{lab}/lease/extend")
async def extend_lease(lab: models.LabName, body: Extension, engine: EngineDep) -> models.Lease:
    """Let a lease last longer; one that has ended begins again."""
    return views.lease(await engine.leases.extend(lab, body.seconds))


@router.delete("/labs/{lab}/lease", status_code=HTTPStatus.NO_CONTENT)
async def cancel_lease(lab: models.LabName, engine: EngineDep) -> None:
    """Let a lab run for ever."""
    await engine.leases.cancel(lab)
