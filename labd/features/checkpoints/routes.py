"""Checkpoints: labs that were frozen, and labs that start from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect, Request

from labd.api.callers import EngineDep, ServicesDep
from labd.api.policy import PolicyDep
from labd.features import models, views
from labd.features.access.views import Thing
from labd.features.checkpoints.views import CheckpointView
from labd.features.labs.routes import accepted
from labd.host.threads import quick
from labd.model.checkpoints import SaveMode
from labd.model.errors import DownloadFailed
from labd.model.names import NAME_PATTERN

router = APIRouter(tags=["checkpoints"])

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
    template: models.TemplateText | None = Field(
        default=None, description="What the labs shall be; the machines that were saved"
    )
    lease: models.LeaseTerm | None = Field(default=None, description="Of each of the labs")


class Restore(models.Body):
    """Take a lab back."""

    checkpoint: str = Field(
        default="",
        pattern=models.OPTIONAL_NAME_PATTERN,
        description="Empty: that from which the lab was started",
    )
    nodes: list[models.Name] = Field(default=[], max_length=500, description="Empty: all")


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
async def list_checkpoints(engine: EngineDep, policy: PolicyDep) -> Checkpoints:
    """List the checkpoints that the caller may see."""
    found = [view for view in await engine.checkpoints.all() if policy.own(view.record.owner)]
    seen = await policy.labs(engine)
    return Checkpoints(checkpoints=[_show(_seen(view, seen)) for view in found])


def _seen(view: CheckpointView, labs: Collection[str]) -> CheckpointView:
    """Return a checkpoint with those of its labs that may be seen."""
    return replace(view, labs=tuple(lab for lab in view.labs if lab in labs))


@router.get("/checkpoints/{name}")
async def get_checkpoint(name: CheckpointName, engine: EngineDep, policy: PolicyDep) -> Checkpoint:
    """Return one checkpoint."""
    seen = await policy.labs(engine)
    return _show(_seen(await engine.checkpoints.get(name), seen))


@router.get(
    "/checkpoints/{name}/archive",
    response_class=Response,
    responses={200: {"content": {"application/x-tar": {}}}},
)
async def export_checkpoint(name: CheckpointName, engine: EngineDep) -> StreamingResponse:
    """Return a checkpoint as one file, for another host; images do not go with it."""
    parts = engine.checkpoints.export(name)
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
async def import_checkpoint(
    name: CheckpointName, request: Request, engine: EngineDep
) -> Checkpoint:
    """Take an exported checkpoint; nothing of a refused one is kept."""
    try:
        return _show(await engine.checkpoints.receive(name, request.stream()))
    except ClientDisconnect as error:
        raise DownloadFailed(
            f"the upload of checkpoint {name} ended before its time; send it again"
        ) from error


@router.delete("/checkpoints/{name}", status_code=HTTPStatus.NO_CONTENT)
async def remove_checkpoint(name: CheckpointName, engine: EngineDep) -> None:
    """Remove a checkpoint that no lab stands on."""
    await engine.checkpoints.remove(name)


@router.post("/checkpoints/{name}/forks", status_code=HTTPStatus.ACCEPTED)
async def fork_checkpoint(
    name: CheckpointName, body: Fork, found: ServicesDep
) -> models.Operations:
    """Start one lab or many from a checkpoint; an operation for each."""
    spec = None
    if body.template is not None:
        given = body.template
        load = found.templates.load
        spec = await quick(load, given.text, given.file, given.settings)
    operations = await found.engine.checkpoints.fork(
        name,
        body.name,
        count=body.count,
        settings=body.settings,
        spec=spec,
        lease=views.lease_ask(body.lease) if body.lease else None,
    )
    return models.Operations(operations=[views.operation(item) for item in operations])


@router.post("/labs/{lab}/checkpoints", status_code=HTTPStatus.ACCEPTED)
async def save_checkpoint(
    lab: models.LabName, body: Save, engine: EngineDep, response: Response
) -> models.Operation:
    """Freeze a lab as a checkpoint."""
    operation = await engine.checkpoints.save(lab, body.name, mode=body.mode, message=body.message)
    return accepted(response, operation)


@router.post("/labs/{lab}/restore", status_code=HTTPStatus.ACCEPTED)
async def restore_lab(
    lab: models.LabName, body: Restore, engine: EngineDep, policy: PolicyDep, response: Response
) -> models.Operation:
    """Take a lab back to a checkpoint, in place."""
    if body.checkpoint:
        await policy.require(engine, Thing.CHECKPOINT, body.checkpoint)
    operation = await engine.checkpoints.restore(lab, body.checkpoint, body.nodes)
    return accepted(response, operation)


@router.post("/labs/{lab}/chapter", status_code=HTTPStatus.ACCEPTED)
async def turn_chapter(
    lab: models.LabName, body: Chapter, engine: EngineDep, response: Response
) -> models.Operation:
    """Take a lab to the next chapter of its template, or to the begin of the present one."""
    return accepted(response, await engine.checkpoints.chapter(lab, again=body.again))
