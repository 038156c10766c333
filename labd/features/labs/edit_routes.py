"""Edits of labs without a template: disks, CDs and nodes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from labd.api import models
from labd.api.models import LabName, Name, NodeName
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.labs.edit_views import NewNode
from labd.features.labs.edits import Edits
from labd.features.operations import Operation, accepted
from labd.model.names import NAME_PATTERN, NodeRef
from labd.model.people import Thing
from labd.model.specs import MAX_VCPUS, DiskBus, Display, Machine

router = APIRouter(prefix="/labs/{lab}/nodes", tags=["edits"])

EditsDep = Annotated[Edits, Depends(service(Edits))]

DiskName = Annotated[str, Path(pattern=NAME_PATTERN)]
_Image = Annotated[
    str, Field(max_length=71, pattern=f"^(sha256:[0-9a-f]{{64}}|{NAME_PATTERN[1:-1]})?$")
]
_BYTES = (1 << 63) - 1


class Disk(models.Wire):
    """A drive of a node."""

    name: str = Field(description="`root`, `cdrom`, or the disk's own")
    kind: str = Field(description="`root`, `cdrom` or `disk`")
    bus: str
    size: int | None = Field(description="Bytes; null: as its image")
    image: str = Field(description="Below it, or in it; empty for none")
    attached: bool = Field(description="The running machine has it")


class Disks(models.Wire):
    """The drives of a node."""

    disks: list[Disk]


class NewDisk(models.Body):
    """A disk to attach; empty, unless it was detached before."""

    name: Name
    size: int = Field(ge=1, le=_BYTES, description="Bytes")
    bus: Annotated[DiskBus | None, Field(strict=False)] = None


class Medium(models.Body):
    """What shall be in a CD-ROM drive."""

    image: _Image = Field(default="", description="Name of an ISO image; empty ejects")


class AddNode(models.Body):
    """A node to add."""

    name: Name
    image: _Image = ""
    profile: Annotated[str, Field(pattern=models.OPTIONAL_NAME_PATTERN)] = ""
    networks: dict[Name, Annotated[str, Field(max_length=64)]] = Field(
        default={}, max_length=16, description="Network -> address with length, or empty"
    )
    vcpus: int | None = Field(default=None, ge=1, le=MAX_VCPUS)
    memory: int | None = Field(default=None, ge=1, le=_BYTES, description="Bytes")
    machine: Annotated[Machine, Field(strict=False)] = Machine.Q35
    display: Annotated[Display, Field(strict=False)] = Display.NONE


@router.get("/{node}/disks")
@requires(Scope.LABS_READ, about=Thing.LAB)
async def list_disks(lab: LabName, node: NodeName, edits: EditsDep) -> Disks:
    """Return the drives of a node."""
    found = await edits.disks(NodeRef(lab, node))
    return Disks(
        disks=[
            Disk(
                name=item.name,
                kind=item.kind,
                bus=item.bus,
                size=item.size,
                image=item.image,
                attached=item.attached,
            )
            for item in found
        ]
    )


@router.post("/{node}/disks", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def add_disk(
    lab: LabName,
    node: NodeName,
    body: NewDisk,
    edits: EditsDep,
    response: Response,
) -> Operation:
    """Give a node one more disk, as it runs."""
    ref = NodeRef(lab, node)
    return accepted(response, await edits.attach_disk(ref, body.name, body.size, body.bus))


@router.delete("/{node}/disks/{disk}", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def detach_disk(
    lab: LabName,
    node: NodeName,
    disk: DiskName,
    edits: EditsDep,
    response: Response,
) -> Operation:
    """Take a disk from a node, as it runs; its data is kept until the node is removed."""
    return accepted(response, await edits.detach_disk(NodeRef(lab, node), disk))


@router.put("/{node}/cdrom", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def set_cdrom(
    lab: LabName,
    node: NodeName,
    body: Medium,
    edits: EditsDep,
    response: Response,
) -> Operation:
    """Put a CD into the drive of a node, or take it out."""
    return accepted(response, await edits.set_cdrom(NodeRef(lab, node), body.image))


@router.post("", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def add_node(lab: LabName, body: AddNode, edits: EditsDep, response: Response) -> Operation:
    """Add a node to a lab; it is started if the lab runs."""
    new = NewNode(
        name=body.name,
        image=body.image,
        profile=body.profile,
        networks=body.networks,
        vcpus=body.vcpus,
        memory=body.memory,
        machine=body.machine,
        display=body.display,
    )
    return accepted(response, await edits.add_node(lab, new))


@router.delete("/{node}", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def remove_node(
    lab: LabName, node: NodeName, edits: EditsDep, response: Response
) -> Operation:
    """Remove a node with its disks; the others keep running."""
    return accepted(response, await edits.remove_node(NodeRef(lab, node)))
