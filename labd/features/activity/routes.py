"""How long labs have been idle, and words of warning before something happens to them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from labd.api import models
from labd.api.callers import CallerDep
from labd.api.models import LabName
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.activity.service import ActivityService
from labd.features.activity.views import ActivityView
from labd.model.activity import Source
from labd.model.people import Thing

router = APIRouter(tags=["activity"])

ActivityDep = Annotated[ActivityService, Depends(service(ActivityService))]


class Activity(models.Wire):
    """When somebody did something with a lab last. All but two are empty when no node runs."""

    lab: str
    running: bool = Field(description="Whether a node of it runs")
    since: str = Field(description="When labd began to watch: the lab came up, or labd did")
    last: str = Field(description="When it was active last")
    idle: float | None = Field(description="Seconds since")
    source: Source | None = Field(description="By what it was active last")
    sources: dict[Source, float] = Field(description="Each source that was seen: seconds since")
    rate: float = Field(description="Packets a minute at its busiest NIC")


class Activities(models.Wire):
    """Labs of which a node runs, by name."""

    labs: list[Activity]


class LabWarning(models.Body):
    """What is about to happen to a lab."""

    text: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
    reason: str = Field(
        default="", pattern=r"^[a-z0-9-]{0,40}$", description="One word for programs, as `idle`"
    )
    left: float | None = Field(default=None, ge=0, le=1e10, description="Seconds until it happens")


def _shown(view: ActivityView) -> Activity:
    return Activity(
        lab=view.lab,
        running=view.running,
        since=view.since,
        last=view.last,
        idle=None if view.idle is None else round(view.idle, 3),
        source=view.source,
        sources={source: round(ago, 3) for source, ago in view.sources.items()},
        rate=round(view.rate, 1),
    )


@router.get("/activity")
@requires(Scope.LABS_READ, student=True)
async def list_activity(activity: ActivityDep, policy: PolicyDep) -> Activities:
    """Tell how long each lab that runs has been idle, as of at most 15 seconds ago.

    Of the labs that the caller may see.
    """
    seen = await policy.labs()
    found = [view for view in await activity.all() if view.lab in seen]
    return Activities(labs=[_shown(view) for view in found])


@router.get("/labs/{lab}/activity")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def get_activity(lab: LabName, activity: ActivityDep) -> Activity:
    """Tell how long a lab has been idle as of now, and by what it was active before."""
    return _shown(await activity.get(lab))


@router.post("/labs/{lab}/warnings", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.LABS_CONTROL, about=Thing.LAB)
async def warn_lab(
    lab: LabName,
    body: LabWarning,
    activity: ActivityDep,
    who: CallerDep,
) -> None:
    """Tell everybody, by the event `lab.warning`, what is about to happen to a lab."""
    await activity.warn(lab, by=who.name, reason=body.reason, text=body.text, left=body.left)
