"""Profiles: VM templates of the catalogue."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends

from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.images import schemas
from labd.features.images.service import Library
from labd.model.images import Profile

router = APIRouter(prefix="/profiles", tags=["profiles"])

ImagesDep = Annotated[Library, Depends(service(Library))]


@router.get("")
@requires(Scope.IMAGES_READ)
async def list_profiles(images: ImagesDep) -> schemas.Profiles:
    """List all profiles."""
    return schemas.Profiles(
        profiles=[schemas.show_profile(item) for item in await images.profiles()]
    )


@router.get("/{profile}")
@requires(Scope.IMAGES_READ, about=NOBODYS)
async def get_profile(profile: schemas.ProfileName, images: ImagesDep) -> schemas.Profile:
    """Return one profile."""
    return schemas.show_profile(await images.profile(profile))


@router.put("/{profile}")
@requires(Scope.IMAGES_WRITE, about=NOBODYS)
async def add_profile(
    profile: schemas.ProfileName, body: schemas.NewProfile, images: ImagesDep
) -> schemas.Profile:
    """Add a profile; the same one again changes nothing."""
    wanted = Profile(
        name=profile,
        image=body.image,
        vcpus=body.vcpus,
        memory=body.memory,
        disk=body.disk,
        firmware=body.firmware,
        description=body.description,
    )
    return schemas.show_profile(await images.add_profile(wanted))


@router.delete("/{profile}", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.IMAGES_WRITE, about=NOBODYS)
async def remove_profile(profile: schemas.ProfileName, images: ImagesDep) -> None:
    """Remove a profile that no lab names."""
    await images.remove_profile(profile)
