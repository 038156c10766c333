"""What goes over the wire of images and profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import Path
from pydantic import Field

from labd.api.models import OPTIONAL_NAME_PATTERN, Body, Name, Sha256, Wire
from labd.model import images
from labd.model.images import ImageFormat
from labd.model.names import NAME_PATTERN
from labd.model.specs import MAX_VCPUS, Firmware

ImageName = Annotated[str, Path(pattern=NAME_PATTERN)]


ProfileName = Annotated[str, Path(pattern=NAME_PATTERN)]


class Image(Wire):
    """An image of the store."""

    name: str
    format: ImageFormat
    digest: str
    size: int
    virtual_size: int
    files: list[str]
    cmdline: str
    ready_pattern: str
    agent: bool
    cloud_init: bool
    created: str
    source: str


class Images(Wire):
    """All images by name."""

    images: list[Image]


class ImageUse(Image):
    """An image, and who needs it."""

    used_by: list[str]


class ImportImage(Body):
    """Have labd fetch an image."""

    name: Name
    url: str = Field(max_length=4096, pattern="^https?://")
    format: Annotated[ImageFormat | None, Field(strict=False)] = None
    sha256: Sha256 = ""


class BuildImage(Body):
    """Have labd build an image from a recipe."""

    recipe: Name
    name: Annotated[str, Field(pattern=OPTIONAL_NAME_PATTERN)] = ""


class NewProfile(Body):
    """A VM template of the catalogue."""

    image: Name
    vcpus: int = Field(default=1, ge=1, le=MAX_VCPUS)
    memory: int = Field(default=256 << 20, ge=1 << 20, le=1 << 44, description="Bytes")
    disk: int | None = Field(default=None, ge=1 << 20, le=1 << 50, description="Bytes")
    firmware: Annotated[Firmware, Field(strict=False)] = Firmware.BIOS
    description: str = Field(default="", max_length=500)


class Profile(Wire):
    """A VM template of the catalogue."""

    name: str
    image: str
    vcpus: int
    memory: int
    disk: int | None
    firmware: Firmware
    description: str


class Profiles(Wire):
    """All profiles by name."""

    profiles: list[Profile]


def show_image(value: images.Image) -> Image:
    """Show an image."""
    return Image.model_validate(asdict(value))


def show_image_use(value: images.Image, users: Sequence[str]) -> ImageUse:
    """Show an image and who needs it."""
    return ImageUse.model_validate({**asdict(value), "used_by": list(users)})


def show_profile(value: images.Profile) -> Profile:
    """Show a profile."""
    return Profile.model_validate(asdict(value))
