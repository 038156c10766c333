"""What goes over the wire of leases."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from labd.api.models import Body, Wire
from labd.features.leases.views import LeaseView
from labd.model.lab_leases import KEEP, WARNINGS, LeaseAsk, LeaseStage

_SECONDS = 7 * 86400.0


class LeaseTerm(Body):
    """A lease: one of `seconds` and `until`."""

    seconds: float | None = Field(default=None, ge=-1e10, le=1e10, description="From now on")
    until: str = Field(default="", max_length=64, description="RFC 3339 with a zone")
    keep: float = Field(
        default=KEEP, ge=-1e10, le=1e10, description="Seconds from the end to the destruction"
    )
    warn: list[Annotated[float, Field(ge=-1e10, le=1e10)]] = Field(
        default=list(WARNINGS),
        max_length=10,
        description="Seconds before the end at which an event warns",
    )


class Lease(Wire):
    """Until when a lab may run."""

    lab: str
    stage: LeaseStage = Field(description="`ended`: it is stopped, and waits for its destruction")
    ends: str
    destroys: str
    left: float = Field(description="Seconds until it ends; 0 when it has")
    keep: float = Field(description="Seconds from the end to the destruction")
    warn: list[float] = Field(description="Seconds before the end at which an event warns")


def show_lease(view: LeaseView) -> Lease:
    """Show a lease."""
    return Lease(
        lab=view.lease.lab,
        stage=view.lease.stage,
        ends=view.ends,
        destroys=view.destroys,
        left=round(view.left, 3),
        keep=view.lease.keep,
        warn=list(view.lease.warn),
    )


def lease_ask(term: LeaseTerm) -> LeaseAsk:
    """Return what a request asks for."""
    return LeaseAsk(seconds=term.seconds, until=term.until, keep=term.keep, warn=tuple(term.warn))
