"""The daemon and its host."""

from __future__ import annotations

from fastapi import APIRouter

from labd.api import models
from labd.api.access import EngineDep, ServicesDep

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
