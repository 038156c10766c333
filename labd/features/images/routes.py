"""Images of the store."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from labd.api.callers import EngineDep
from labd.api.policy import PolicyDep, note
from labd.features import models, views
from labd.features.labs.routes import accepted
from labd.model.errors import DownloadFailed
from labd.model.specs import ImageFormat

router = APIRouter(tags=["images"])


@router.get("/images")
async def list_images(engine: EngineDep) -> models.Images:
    """List all images."""
    return models.Images(images=[views.image(item) for item in await engine.images()])


@router.get("/images/{image}")
async def get_image(
    image: models.ImageName, engine: EngineDep, policy: PolicyDep
) -> models.ImageUse:
    """Return one image, and who needs it of what the caller may see."""
    found, users = await engine.image(image)
    hidden = {lab.name for lab, _ in await engine.labs() if not policy.lab(lab)}
    hidden |= {
        f"checkpoint {view.record.name}"
        for view in await engine.checkpoints.all()
        if not policy.own(view.record.owner)
    }
    return views.image_use(found, [user for user in users if user.split("/")[0] not in hidden])


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
async def upload_image(
    image: models.ImageName,
    request: Request,
    engine: EngineDep,
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
) -> models.Image:
    """Take an upload; it is checked while it streams, and nothing of a refused one is kept."""
    try:
        taken = await engine.receive_image(
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
    return views.image(taken)


@router.post("/images", status_code=HTTPStatus.ACCEPTED)
async def import_image(
    body: models.ImportImage, engine: EngineDep, response: Response
) -> models.Operation:
    """Fetch an image from a URL."""
    note(f"image {body.name}")
    operation = await engine.import_image(
        body.name, body.url, format=body.format, sha256=body.sha256.lower()
    )
    return accepted(response, operation)


@router.post("/image-builds", status_code=HTTPStatus.ACCEPTED)
async def build_image(
    body: models.BuildImage, engine: EngineDep, response: Response
) -> models.Operation:
    """Build an image from a recipe; its name is the recipe's unless given."""
    note(f"image {body.name or body.recipe}")
    return accepted(response, await engine.build_image(body.recipe, body.name or body.recipe))


@router.delete("/images/{image}", status_code=HTTPStatus.NO_CONTENT)
async def remove_image(image: models.ImageName, engine: EngineDep) -> None:
    """Remove an image that nothing needs."""
    await engine.remove_image(image)
