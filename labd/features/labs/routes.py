"""Labs: what they are, and everything that changes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from labd.api.callers import Caller, CallerDep
from labd.api.models import LabName
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.labs import schemas
from labd.features.labs.overview import LabOverview
from labd.features.labs.service import Labs
from labd.features.leases import Leasing, lease_ask
from labd.features.operations import Operation, accepted
from labd.features.templates import ShippedTemplates, TemplateText
from labd.host.threads import quick
from labd.model.errors import Forbidden
from labd.model.people import Role, Thing
from labd.model.records import OperationKind

# What a student may do to nodes; to the lab as a whole only the last.
_STUDENT_ACTIONS = frozenset({"start", "stop", "restart", "reset"})
_STUDENT_LAB_ACTION = "reset"

router = APIRouter(prefix="/labs", tags=["labs"])

LeasesDep = Annotated[Leasing, Depends(service(Leasing))]
LabsDep = Annotated[Labs, Depends(service(Labs))]
OverviewDep = Annotated[LabOverview, Depends(service(LabOverview))]
TemplatesDep = Annotated[ShippedTemplates, Depends(service(ShippedTemplates))]


@router.get("")
@requires(Scope.LABS_READ, student=True)
async def list_labs(overview: OverviewDep, policy: PolicyDep) -> schemas.Labs:
    """List the labs that the caller may see, with their nodes' states."""
    found = [item for item in await overview.all() if policy.lab(item[0])]
    return schemas.Labs(labs=[schemas.show_brief(lab, nodes) for lab, nodes in found])


@router.get("/{lab}")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def get_lab(lab: LabName, overview: OverviewDep, who: CallerDep) -> schemas.Lab:
    """Return one lab, whole; to a student without what its template says of the inside."""
    return schemas.show_lab(await overview.get(lab), bare=who.role is Role.STUDENT)


@router.put("/{lab}", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB, creates=True)
async def up_lab(
    lab: LabName,
    body: schemas.Up,
    labs: LabsDep,
    leases: LeasesDep,
    templates: TemplatesDep,
    response: Response,
) -> Operation:
    """Bring a lab up: create it, start what is stopped, or apply an edited template."""
    load = templates.load
    spec = await quick(load, body.text, body.file, body.settings)
    lease = lease_ask(body.lease) if body.lease else None
    operation = await labs.up(
        lab,
        spec,
        keep=body.keep,
        force=body.force,
        timeout=body.timeout,
        more=leases.of(lab, lease),
    )
    return accepted(response, operation)


@router.post("/{lab}/plan")
@requires(Scope.LABS_READ, about=Thing.LAB, creates=True, reads=True)
async def plan_lab(
    lab: LabName, body: TemplateText, labs: LabsDep, templates: TemplatesDep
) -> schemas.Plan:
    """Tell what `up` would do. Changes nothing."""
    load = templates.load
    spec = await quick(load, body.text, body.file, body.settings)
    return schemas.Plan(
        changes=[
            schemas.Change(action=item.action, kind=item.kind, name=item.name, why=item.why)
            for item in await labs.plan(lab, spec)
        ]
    )


@router.post("/{lab}/actions", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.LAB, student=True)
async def act_on_lab(
    lab: LabName,
    body: schemas.Action,
    labs: LabsDep,
    who: CallerDep,
    response: Response,
) -> Operation:
    """Stop, start, pause, resume, reset or destroy."""
    _require_action(who, lab, body)
    operation = await labs.act(
        OperationKind(body.action), lab, body.nodes, force=body.force, grace=body.grace
    )
    return accepted(response, operation)


def _require_action(who: Caller, lab: str, body: schemas.Action) -> None:
    """Let a student start, stop, restart and reset nodes, and reset the lab; all else is refused.

    Raises:
        Forbidden: It is something else.
    """
    if who.role is not Role.STUDENT:
        return
    if body.action not in _STUDENT_ACTIONS:
        raise Forbidden(f"{who.name} may not {body.action} lab {lab}; ask the instructor")
    if not body.nodes and body.action != _STUDENT_LAB_ACTION:
        raise Forbidden(
            f"{who.name} may {body.action} nodes of lab {lab}, and not the lab: name them, "
            f"like {lab}/NODE"
        )
