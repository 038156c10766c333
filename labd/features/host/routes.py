"""The daemon and its host."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field

from labd.api import models
from labd.api.callers import CallerDep
from labd.api.models import Wire
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import VersionDep, service
from labd.features.host.service import HostService
from labd.model.people import Role


class Info(Wire):
    """Facts about the daemon; more keys may come."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str


class Finding(Wire):
    """One thing that the doctor looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str


class Findings(Wire):
    """What the doctor found."""

    findings: list[Finding]


router = APIRouter(tags=["host"])

HostDep = Annotated[HostService, Depends(service(HostService))]


@router.get("/info")
@requires(Scope.ANY, student=True)
async def get_info(host: HostDep, version: VersionDep, who: CallerDep) -> Info:
    """Tell version, host id, root, pid, accelerator, broker address and counts.

    Instructors and students are told the version: the rest is of the host.
    """
    facts = dict(await host.info()) if who.sees_all else {}
    return Info.model_validate({**facts, "version": version})


class WhoAmI(models.Wire):
    """Who asks, and what they may do."""

    name: str = Field(description="Such as `user root` or `token anna`")
    role: str
    scopes: list[str] = Field(description="Of a plugin")
    labs: list[str] = Field(description="Of a student")


@router.get("/caller")
@requires(Scope.ANY, student=True)
async def get_caller(who: CallerDep, policy: PolicyDep) -> WhoAmI:
    """Tell the caller who they are here."""
    student = who.role is Role.STUDENT
    labs = await policy.labs() if student else []
    return WhoAmI(name=who.name, role=who.role, scopes=sorted(who.scopes), labs=labs)


@router.get("/doctor")
@requires(Scope.HOST_READ)
async def get_doctor(host: HostDep) -> Findings:
    """Look at the host: what labd can do here, and what to mend."""
    return Findings(findings=[Finding.model_validate(dict(item)) for item in await host.findings()])
