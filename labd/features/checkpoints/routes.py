"""Checkpoints: labs that were frozen, and labs that start from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect, Request

from labd.api import models
from labd.api.models import LabName, Name
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.checkpoints.service import CheckpointService
from labd.features.checkpoints.views import CheckpointView
from labd.features.leases import LeaseTerm, lease_ask
from labd.features.operations import Operation, Operations, accepted, show_operation
from labd.features.templates import ShippedTemplates, TemplateText
from labd.host.threads import quick
from labd.model.checkpoints import SaveMode
from labd.model.errors import DownloadFailed
from labd.model.names import NAME_PATTERN
from labd.model.people import Thing

router = APIRouter(tags=["checkpoints"])

CheckpointsDep = Annotated[CheckpointService, Depends(service(CheckpointService))]
TemplatesDep = Annotated[ShippedTemplates, Depends(service(ShippedTemplates))]

CheckpointName = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of a checkpoint")]
_Value = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Save(models.Body):
    """Freeze a lab."""

    name: str = Field(pattern=NAME_PATTERN)
    mode: SaveMode = Field(
        default=SaveMode.LIVE, strict=False, description="Whether the lab goes on"
    )
    message: str = Field(default="", max_length=500)


class Fork(models.Body):
    """Start labs from a checkpoint."""

    name: str = Field(pattern=NAME_PATTERN)
    count: int = Field(
        default=0, ge=0, le=500, description="NAME-1 to NAME-COUNT; 0: one lab, called NAME"
    )
    settings: dict[str, _Value] = Field(
        default={}, max_length=100, description="In the environment of on_fork commands, as LABD_*"
    )
    template: TemplateText | None = Field(
        default=None, description="What the labs shall be; the machines that were saved"
    )
    lease: LeaseTerm | None = Field(default=None, description="Of each of the labs")


class Restore(models.Body):
    """Take a lab back."""

    checkpoint: str = Field(
        default="",
        pattern=models.OPTIONAL_NAME_PATTERN,
        description="Empty: that from which the lab was started",
    )
    nodes: list[Name] = Field(default=[], max_length=500, description="Empty: all")


class Chapter(models.Body):
    """Take a lab to a chapter of its template."""

    again: bool = Field(default=False, description="The present chapter from its begin")


class CheckpointNode(models.Wire):
    """A frozen node."""

    name: str
    machine: str = Field(description="QEMU's versioned machine type")
    accel: str
    cpu: str = Field(description="QEMU's `-cpu`: a copy gets the same")
    memory: int = Field(description="Bytes that the guest has")
    memory_used: int = Field(description="Bytes of it that are not zero")
    image: str = Field(description="Digest")
    layers: int = Field(description="Frozen disk layers above the image")
    ready: bool


class Checkpoint(models.Wire):
    """A checkpoint."""

    name: str
    key: str
    lab: str = Field(description="Which was saved")
    template: str
    message: str
    created: str
    qemu: str
    cpu: str
    pause_ms: float = Field(description="How long the longest of the nodes stood still")
    spread_ms: float = Field(description="Between the first and the last node's stop")
    size: int = Field(description="Bytes on disk, without the layers of disks")
    loaded: int = Field(description="Bytes of memory that are ready to be mapped")
    origin: str = Field(description="Key of the checkpoint that the lab had come from, or empty")
    labs: list[str] = Field(description="Labs that were started from it")
    nodes: list[CheckpointNode]


class Checkpoints(models.Wire):
    """All checkpoints."""

    checkpoints: list[Checkpoint]


def _show(view: CheckpointView) -> Checkpoint:
    record = view.record
    nodes = [
        CheckpointNode(
            name=node.name,
            machine=node.machine_type,
            accel="kvm" if node.kvm else "tcg",
            cpu=str(node.cpu) if node.kvm else "max",
            memory=node.memory,
            memory_used=node.ram_bytes,
            image=node.image,
            layers=max((len(disk.layers) for disk in node.disks), default=0),
            ready=node.ready,
        )
        for node in record.nodes
    ]
    return Checkpoint(
        name=record.name,
        key=record.key,
        lab=record.lab,
        template=record.spec.template,
        message=record.message,
        created=record.created,
        qemu=record.qemu,
        cpu=record.cpu_model,
        pause_ms=round(record.pause * 1000, 3),
        spread_ms=round(record.spread * 1000, 3),
        size=record.size,
        loaded=view.loaded,
        origin=record.origin,
        labs=list(view.labs),
        nodes=nodes,
    )


@router.get("/checkpoints")
@requires(Scope.LABS_READ)
async def list_checkpoints(checkpoints: CheckpointsDep, policy: PolicyDep) -> Checkpoints:
    """List the checkpoints that the caller may see."""
    found = [view for view in await checkpoints.all() if policy.own(view.record.owner)]
    seen = await policy.labs()
    return Checkpoints(checkpoints=[_show(_seen(view, seen)) for view in found])


def _seen(view: CheckpointView, labs: Collection[str]) -> CheckpointView:
    """Return a checkpoint with those of its labs that may be seen."""
    return replace(view, labs=tuple(lab for lab in view.labs if lab in labs))


@router.get("/checkpoints/{name}")
@requires(Scope.LABS_READ, about=Thing.CHECKPOINT)
async def get_checkpoint(
    name: CheckpointName, checkpoints: CheckpointsDep, policy: PolicyDep
) -> Checkpoint:
    """Return one checkpoint."""
    seen = await policy.labs()
    return _show(_seen(await checkpoints.get(name), seen))


@router.get(
    "/checkpoints/{name}/archive",
    response_class=Response,
    responses={200: {"content": {"application/x-tar": {}}}},
)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT, takes=True)
async def export_checkpoint(name: CheckpointName, checkpoints: CheckpointsDep) -> StreamingResponse:
    """Return a checkpoint as one file, for another host; images do not go with it."""
    parts = checkpoints.export(name)
    first = await anext(parts)  # what is missing is told before the answer begins

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(whole(), media_type="application/x-tar")


@router.put(
    "/checkpoints/{name}",
    status_code=HTTPStatus.CREATED,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT, creates=True)
async def import_checkpoint(
    name: CheckpointName, request: Request, checkpoints: CheckpointsDep
) -> Checkpoint:
    """Take an exported checkpoint; nothing of a refused one is kept."""
    try:
        return _show(await checkpoints.receive(name, request.stream()))
    except ClientDisconnect as error:
        raise DownloadFailed(
            f"the upload of checkpoint {name} ended before its time; send it again"
        ) from error


@router.delete("/checkpoints/{name}", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT)
async def remove_checkpoint(name: CheckpointName, checkpoints: CheckpointsDep) -> None:
    """Remove a checkpoint that no lab stands on."""
    await checkpoints.remove(name)


@router.post("/checkpoints/{name}/forks", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT)
async def fork_checkpoint(
    name: CheckpointName, body: Fork, checkpoints: CheckpointsDep, templates: TemplatesDep
) -> Operations:
    """Start one lab or many from a checkpoint; an operation for each."""
    spec = None
    if body.template is not None:
        given = body.template
        load = templates.load
        spec = await quick(load, given.text, given.file, given.settings)
    operations = await checkpoints.fork(
        name,
        body.name,
        count=body.count,
        settings=body.settings,
        spec=spec,
        lease=lease_ask(body.lease) if body.lease else None,
    )
    return Operations(operations=[show_operation(item) for item in operations])


@router.post("/labs/{lab}/checkpoints", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def save_checkpoint(
    lab: LabName, body: Save, checkpoints: CheckpointsDep, response: Response
) -> Operation:
    """Freeze a lab as a checkpoint."""
    operation = await checkpoints.save(lab, body.name, mode=body.mode, message=body.message)
    return accepted(response, operation)


@router.post("/labs/{lab}/restore", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB, student=True)
async def restore_lab(
    lab: LabName, body: Restore, checkpoints: CheckpointsDep, policy: PolicyDep, response: Response
) -> Operation:
    """Take a lab back to a checkpoint, in place."""
    if body.checkpoint:
        await policy.require(Thing.CHECKPOINT, body.checkpoint)
    operation = await checkpoints.restore(lab, body.checkpoint, body.nodes)
    return accepted(response, operation)


@router.post("/labs/{lab}/chapter", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def turn_chapter(
    lab: LabName, body: Chapter, checkpoints: CheckpointsDep, response: Response
) -> Operation:
    """Take a lab to the next chapter of its template, or to the begin of the present one."""
    return accepted(response, await checkpoints.chapter(lab, again=body.again))
