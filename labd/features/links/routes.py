"""Links of labs: carriers and impairments."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from labd.api.models import LabName
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.links.schemas import OPTIONAL_TARGET, Links, LinksAsWires, SetLinks, to_links
from labd.features.links.service import LinkService
from labd.model.people import Thing

router = APIRouter(prefix="/labs/{lab}", tags=["links"])

LinksDep = Annotated[LinkService, Depends(service(LinkService))]
_Target = Annotated[str, Query(pattern=OPTIONAL_TARGET)]


@router.get("/links")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def list_links(lab: LabName, links: LinksDep) -> Links:
    """Return the links of a lab, one entry a NIC."""
    return Links(links=to_links(await links.show(lab)))


@router.patch("/links")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def set_links(lab: LabName, body: SetLinks, links: LinksDep) -> Links:
    """Change links, now and for later starts; returns those that were meant."""
    return Links(links=to_links(await links.set(lab, body.change())))


@router.delete("/links")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def reset_links(lab: LabName, links: LinksDep, target: _Target = "") -> Links:
    """Have links as the template says, all without a target; returns those that were meant."""
    return Links(links=to_links(await links.reset(lab, target)))


# The names that these routes had before; version 0.3 takes them out.


@router.get("/wires", deprecated=True)
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def list_wires(lab: LabName, links: LinksDep) -> LinksAsWires:
    """Return the links of a lab: `GET /v1/labs/{lab}/links`."""
    return LinksAsWires(wires=to_links(await links.show(lab)))


@router.patch("/wires", deprecated=True)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def set_wires(lab: LabName, body: SetLinks, links: LinksDep) -> LinksAsWires:
    """Change links: `PATCH /v1/labs/{lab}/links`."""
    return LinksAsWires(wires=to_links(await links.set(lab, body.change())))


@router.delete("/wires", deprecated=True)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def reset_wires(lab: LabName, links: LinksDep, target: _Target = "") -> LinksAsWires:
    """Have links as the template says: `DELETE /v1/labs/{lab}/links`."""
    return LinksAsWires(wires=to_links(await links.reset(lab, target)))
