"""Wires of labs: carriers and impairments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from labd.api import models
from labd.api.models import LabName
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.links.service import LinkService
from labd.features.links.views import LinkChange, LinkView
from labd.model.impairment import MAX_RATE, MAX_TIME, NAMES
from labd.model.names import NAME_PATTERN
from labd.model.people import Thing

router = APIRouter(prefix="/labs/{lab}/wires", tags=["wires"])

LinksDep = Annotated[LinkService, Depends(service(LinkService))]

_NAME = NAME_PATTERN[1:-1]
TARGET = f"^{_NAME}(/{_NAME})?$"
_Seconds = Annotated[float | None, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]
_Percent = Annotated[float | None, Field(ge=0, le=100, allow_inf_nan=False)]


class Wire(models.Wire):
    """How a NIC is attached, and what happens to what it sends."""

    network: str
    link: bool = Field(description="It is a link of two ends")
    node: str
    nic: str
    to: list[str] = Field(description="`NODE/NIC` of the others in the network")
    down: bool = Field(description="It has no carrier")
    rate: int = Field(description="Bits a second; 0: as fast as it goes")
    delay: float = Field(description="Seconds")
    jitter: float = Field(description="Seconds")
    loss: float = Field(description="Per cent")
    duplicate: float = Field(description="Per cent")
    corrupt: float = Field(description="Per cent")
    changed: bool = Field(description="By a request, over what the template says")


class Wires(models.Wire):
    """Wires of a lab."""

    wires: list[Wire]


class SetWires(models.Body):
    """What to change; what is left out stays as it is."""

    target: str = Field(
        pattern=TARGET, description="A link or network, or `NODE/NIC`: what that NIC sends"
    )
    sender: str = Field(
        default="",
        pattern=f"^({_NAME}(/{_NAME})?)?$",
        description="`NODE` or `NODE/NIC` in the target whose frames are meant; empty: all",
    )
    down: bool | None = Field(default=None, description="Take the carrier away, or give it back")
    rate: int | None = Field(default=None, ge=0, le=MAX_RATE, description="Bits a second")
    delay: _Seconds = None
    jitter: _Seconds = None
    loss: _Percent = None
    duplicate: _Percent = None
    corrupt: _Percent = None


def _wires(views: Sequence[LinkView]) -> Wires:
    return Wires(
        wires=[
            Wire(
                network=view.network,
                link=view.link,
                node=view.node,
                nic=view.nic,
                to=list(view.to),
                down=view.down,
                rate=view.sends.rate,
                delay=view.sends.delay,
                jitter=view.sends.jitter,
                loss=view.sends.loss,
                duplicate=view.sends.duplicate,
                corrupt=view.sends.corrupt,
                changed=view.changed,
            )
            for view in views
        ]
    )


@router.get("")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def list_wires(lab: LabName, links: LinksDep) -> Wires:
    """Return the wires of a lab, one entry a NIC."""
    return _wires(await links.show(lab))


@router.patch("")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def set_wires(lab: LabName, body: SetWires, links: LinksDep) -> Wires:
    """Change wires, now and for later starts; returns those that were meant."""
    given = {name: value for name in NAMES if (value := getattr(body, name)) is not None}
    change = LinkChange(target=body.target, sender=body.sender, down=body.down, fields=given)
    return _wires(await links.set(lab, change))


@router.delete("")
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def reset_wires(
    lab: LabName,
    links: LinksDep,
    target: Annotated[str, Query(pattern=f"^({_NAME}(/{_NAME})?)?$")] = "",
) -> Wires:
    """Have wires as the template says, all without a target; returns those that were meant."""
    return _wires(await links.reset(lab, target))
