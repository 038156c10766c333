"""Labs: what they are, and everything that changes them."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response

from labd.api.callers import (
    STUDENT_ACTIONS,
    STUDENT_LAB_ACTION,
    Caller,
    CallerDep,
    EngineDep,
    ServicesDep,
)
from labd.api.policy import PolicyDep
from labd.features import models, views
from labd.host.threads import quick
from labd.model.errors import Forbidden
from labd.model.people import Role
from labd.model.records import OperationKind, OperationRecord

router = APIRouter(prefix="/labs", tags=["labs"])


def accepted(response: Response, operation: OperationRecord) -> models.Operation:
    """Answer with an operation, and where to ask for its outcome."""
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return views.operation(operation)


@router.get("")
async def list_labs(engine: EngineDep, policy: PolicyDep) -> models.Labs:
    """List the labs that the caller may see, with their nodes' states."""
    found = [item for item in await engine.labs() if policy.lab(item[0])]
    return models.Labs(labs=[views.lab_brief(lab, nodes) for lab, nodes in found])


@router.get("/{lab}")
async def get_lab(lab: models.LabName, engine: EngineDep, who: CallerDep) -> models.Lab:
    """Return one lab, whole; to a student without what its template says of the inside."""
    return views.lab(await engine.lab(lab), bare=who.role is Role.STUDENT)


@router.put("/{lab}", status_code=HTTPStatus.ACCEPTED)
async def up_lab(
    lab: models.LabName, body: models.Up, found: ServicesDep, response: Response
) -> models.Operation:
    """Bring a lab up: create it, start what is stopped, or apply an edited template."""
    load = found.templates.load
    spec = await quick(load, body.text, body.file, body.settings)
    lease = views.lease_ask(body.lease) if body.lease else None
    operation = await found.engine.up(
        lab, spec, keep=body.keep, force=body.force, timeout=body.timeout, lease=lease
    )
    return accepted(response, operation)


@router.post("/{lab}/plan")
async def plan_lab(
    lab: models.LabName, body: models.TemplateText, found: ServicesDep
) -> models.Plan:
    """Tell what `up` would do. Changes nothing."""
    load = found.templates.load
    spec = await quick(load, body.text, body.file, body.settings)
    return models.Plan(
        changes=[
            models.Change(action=item.action, kind=item.kind, name=item.name, why=item.why)
            for item in await found.engine.plan(lab, spec)
        ]
    )


@router.post("/{lab}/actions", status_code=HTTPStatus.ACCEPTED)
async def act_on_lab(
    lab: models.LabName,
    body: models.Action,
    engine: EngineDep,
    who: CallerDep,
    response: Response,
) -> models.Operation:
    """Stop, start, pause, resume, reset or destroy."""
    _require_action(who, lab, body)
    operation = await engine.act(
        OperationKind(body.action), lab, body.nodes, force=body.force, grace=body.grace
    )
    return accepted(response, operation)


def _require_action(who: Caller, lab: str, body: models.Action) -> None:
    """Let a student start, stop, restart and reset nodes, and reset the lab; all else is refused.

    Raises:
        Forbidden: It is something else.
    """
    if who.role is not Role.STUDENT:
        return
    if body.action not in STUDENT_ACTIONS:
        raise Forbidden(f"{who.name} may not {body.action} lab {lab}; ask the instructor")
    if not body.nodes and body.action != STUDENT_LAB_ACTION:
        raise Forbidden(
            f"{who.name} may {body.action} nodes of lab {lab}, and not the lab: name them, "
            f"like {lab}/NODE"
        )
