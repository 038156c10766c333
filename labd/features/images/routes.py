"""Images of the store."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from labd.api import models
from labd.api.policy import PolicyDep, note
from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.checkpoints import CheckpointService
from labd.features.images import schemas
from labd.features.images.service import Library
from labd.features.labs import LabOverview
from labd.features.operations import Operation, accepted
from labd.model.errors import DownloadFailed
from labd.model.images import ImageFormat

router = APIRouter(tags=["images"])

CheckpointsDep = Annotated[CheckpointService, Depends(service(CheckpointService))]
ImagesDep = Annotated[Library, Depends(service(Library))]
OverviewDep = Annotated[LabOverview, Depends(service(LabOverview))]


@router.get("/images")
@requires(Scope.IMAGES_READ)
async def list_images(images: ImagesDep) -> schemas.Images:
    """List all images."""
    return schemas.Images(images=[schemas.show_image(item) for item in await images.all()])


@router.get("/images/{image}")
@requires(Scope.IMAGES_READ, about=NOBODYS)
async def get_image(
    image: schemas.ImageName,
    checkpoints: CheckpointsDep,
    images: ImagesDep,
    overview: OverviewDep,
    policy: PolicyDep,
) -> schemas.ImageUse:
    """Return one image, and who needs it of what the caller may see."""
    found, users = await images.image(image)
    hidden = {lab.name for lab, _ in await overview.all() if not policy.lab(lab)}
    hidden |= {
        f"checkpoint {view.record.name}"
        for view in await checkpoints.all()
        if not policy.own(view.record.owner)
    }
    return schemas.show_image_use(
        found, [user for user in users if user.split("/")[0] not in hidden]
    )


@router.put(
    "/images/{image}",
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
@requires(Scope.IMAGES_WRITE, about=NOBODYS)
async def upload_image(
    image: schemas.ImageName,
    request: Request,
    images: ImagesDep,
    *,
    format: ImageFormat | None = None,
    sha256: models.Sha256 = "",
    kernel_size: Annotated[
        int | None,
        Query(ge=1, le=1 << 40, description="Bytes of the kernel; the rest is initramfs"),
    ] = None,
    cmdline: Annotated[str, Query(max_length=2048)] = "",
    ready: Annotated[str, Query(max_length=500, description="Console pattern")] = "",
    source: Annotated[str, Query(max_length=4096, description="For people")] = "",
) -> schemas.Image:
    """Take an upload; it is checked while it streams, and nothing of a refused one is kept."""
    try:
        taken = await images.receive(
            image,
            request.stream(),
            format=format,
            sha256=sha256.lower(),
            source=source,
            kernel_size=kernel_size,
            cmdline=cmdline,
            ready_pattern=ready,
        )
    except ClientDisconnect as error:
        raise DownloadFailed(
            f"the upload of {image} ended before its time; send it again"
        ) from error
    return schemas.show_image(taken)


@router.post("/images", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.IMAGES_WRITE)
async def import_image(
    body: schemas.ImportImage, images: ImagesDep, response: Response
) -> Operation:
    """Fetch an image from a URL."""
    note(f"image {body.name}")
    operation = await images.download(
        body.name, body.url, format=body.format, sha256=body.sha256.lower()
    )
    return accepted(response, operation)


@router.post("/image-builds", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.IMAGES_WRITE)
async def build_image(body: schemas.BuildImage, images: ImagesDep, response: Response) -> Operation:
    """Build an image from a recipe; its name is the recipe's unless given."""
    note(f"image {body.name or body.recipe}")
    return accepted(response, await images.build(body.recipe, body.name or body.recipe))


@router.delete("/images/{image}", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.IMAGES_WRITE, about=NOBODYS)
async def remove_image(image: schemas.ImageName, images: ImagesDep) -> None:
    """Remove an image that nothing needs."""
    await images.remove(image)
