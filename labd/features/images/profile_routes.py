"""Profiles: VM templates of the catalogue."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from labd.api.callers import EngineDep
from labd.features import models, views
from labd.model.specs import Profile

router = APIRouter(prefix="/profiles", tags=["profiles"])


@router.get("")
async def list_profiles(engine: EngineDep) -> models.Profiles:
    """List all profiles."""
    return models.Profiles(profiles=[views.profile(item) for item in await engine.profiles()])


@router.get("/{profile}")
async def get_profile(profile: models.ProfileName, engine: EngineDep) -> models.Profile:
    """Return one profile."""
    return views.profile(await engine.profile(profile))


@router.put("/{profile}")
async def add_profile(
    profile: models.ProfileName, body: models.NewProfile, engine: EngineDep
) -> models.Profile:
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
    return views.profile(await engine.add_profile(wanted))


@router.delete("/{profile}", status_code=HTTPStatus.NO_CONTENT)
async def remove_profile(profile: models.ProfileName, engine: EngineDep) -> None:
    """Remove a profile that no lab names."""
    await engine.remove_profile(profile)
