"""Labs: what they are, and everything that changes them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Response

from labd.api import models, views
from labd.api.access import EngineDep, ServicesDep
from labd.model.records import OperationKind, OperationRecord

router = APIRouter(prefix="/labs", tags=["labs"])


def accepted(response: Response, operation: OperationRecord) -> models.Operation:
    """Answer with an operation, and where to ask for its outcome."""
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return views.operation(operation)


@router.get("")
async def list_labs(engine: EngineDep) -> models.Labs:
    """List all labs with their nodes' states."""
    return models.Labs(labs=[views.lab_brief(lab, nodes) for lab, nodes in await engine.labs()])


@router.get("/{lab}")
async def get_lab(lab: models.LabName, engine: EngineDep) -> models.Lab:
    """Return one lab, whole."""
    return views.lab(await engine.lab(lab))


@router.put("/{lab}", status_code=HTTPStatus.ACCEPTED)
async def up_lab(
    lab: models.LabName, body: models.Up, found: ServicesDep, response: Response
) -> models.Operation:
    """Bring a lab up: create it, start what is stopped, or apply an edited template."""
    load = found.templates.load
    spec = await asyncio.to_thread(load, body.text, body.file, body.settings)
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
    spec = await asyncio.to_thread(load, body.text, body.file, body.settings)
    return models.Plan(
        changes=[
            models.Change(action=item.action, kind=item.kind, name=item.name, why=item.why)
            for item in await found.engine.plan(lab, spec)
        ]
    )


@router.post("/{lab}/actions", status_code=HTTPStatus.ACCEPTED)
async def act_on_lab(
    lab: models.LabName, body: models.Action, engine: EngineDep, response: Response
) -> models.Operation:
    """Stop, start, pause, resume, reset or destroy."""
    operation = await engine.act(
        OperationKind(body.action), lab, body.nodes, force=body.force, grace=body.grace
    )
    return accepted(response, operation)
