"""The daemon and its host."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from labd.api import models
from labd.api.access import EngineDep, ServicesDep
from labd.model.differences import Difference

router = APIRouter(tags=["host"])


@router.get("/info")
async def get_info(found: ServicesDep) -> models.Info:
    """Tell version, host id, root, pid, accelerator, broker address and counts."""
    facts = dict(await found.engine.info())
    return models.Info.model_validate({**facts, "version": found.version})


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
