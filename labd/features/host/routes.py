"""The daemon and its host."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import Field

from labd.api.callers import CallerDep, EngineDep, ServicesDep
from labd.api.policy import PolicyDep
from labd.features import models
from labd.model.differences import Difference
from labd.model.people import Role

router = APIRouter(tags=["host"])


@router.get("/info")
async def get_info(found: ServicesDep, who: CallerDep) -> models.Info:
    """Tell version, host id, root, pid, accelerator, broker address and counts.

    Instructors and students are told the version: the rest is of the host.
    """
    facts = dict(await found.engine.info()) if who.sees_all else {}
    return models.Info.model_validate({**facts, "version": found.version})


class WhoAmI(models.Wire):
    """Who asks, and what they may do."""

    name: str = Field(description="Such as `user root` or `token anna`")
    role: str
    scopes: list[str] = Field(description="Of a plugin")
    labs: list[str] = Field(description="Of a student")


@router.get("/caller")
async def get_caller(engine: EngineDep, who: CallerDep, policy: PolicyDep) -> WhoAmI:
    """Tell the caller who they are here."""
    student = who.role is Role.STUDENT
    labs = await policy.labs(engine) if student else []
    return WhoAmI(name=who.name, role=who.role, scopes=sorted(who.scopes), labs=labs)


@router.get("/doctor")
async def get_doctor(engine: EngineDep) -> models.Findings:
    """Look at the host: what labd can do here, and what to mend."""
    return models.Findings(
        findings=[models.Finding.model_validate(dict(item)) for item in await engine.findings()]
    )


@router.get("/fsck")
async def get_differences(engine: EngineDep) -> models.Differences:
    """Tell where the kernel, the folders and the inventory do not agree."""
    return _told(await engine.differences(repair=False))


@router.post("/fsck")
async def repair(engine: EngineDep) -> models.Differences:
    """Repair what can be repaired, and tell it with what is left."""
    return _told(await engine.differences(repair=True))


def _told(found: Sequence[Difference]) -> models.Differences:
    return models.Differences(
        differences=[models.Difference.model_validate(item, from_attributes=True) for item in found]
    )
