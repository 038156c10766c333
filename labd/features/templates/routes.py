"""Lab templates."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from labd.api.callers import ServicesDep
from labd.features import models, views
from labd.host.threads import quick

router = APIRouter(prefix="/templates", tags=["templates"])


@router.post("/validate")
async def validate_template(body: models.TemplateText, found: ServicesDep) -> models.Compiled:
    """Compile a template, and tell every problem with its place. Changes nothing."""
    load = found.templates.load
    return views.compiled(await quick(load, body.text, body.file, body.settings))


@router.post("/parameters")
async def list_template_parameters(
    body: models.ParametersText, found: ServicesDep
) -> models.Parameters:
    """Tell which parameters a template declares."""
    items = await quick(found.templates.parameters, body.text, body.file)
    return models.Parameters(parameters=[dict(item) for item in items])


@router.get("/schema")
async def get_template_schema(found: ServicesDep) -> dict[str, Any]:
    """Return the JSON Schema of templates, for editors."""
    return dict(await quick(found.templates.schema))


@router.get("")
async def list_templates(found: ServicesDep) -> models.Templates:
    """List the shipped templates."""
    items = await quick(found.templates.shipped)
    return models.Templates(
        templates=[
            models.TemplateBrief(
                name=item.name, file=item.file, description=item.description, problem=item.problem
            )
            for item in items
        ]
    )


@router.get("/{template}")
async def get_template(template: models.TemplateName, found: ServicesDep) -> models.Template:
    """Return the text of a shipped template."""
    file, text = await quick(found.templates.text, template)
    return models.Template(name=template, file=file, text=text)
