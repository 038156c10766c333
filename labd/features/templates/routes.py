"""Lab templates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.templates import schemas
from labd.features.templates.shipped import ShippedTemplates
from labd.host.threads import quick

router = APIRouter(prefix="/templates", tags=["templates"])

TemplatesDep = Annotated[ShippedTemplates, Depends(service(ShippedTemplates))]


@router.post("/validate")
@requires(Scope.LABS_READ, reads=True)
async def validate_template(
    body: schemas.TemplateText, templates: TemplatesDep
) -> schemas.Compiled:
    """Compile a template, and tell every problem with its place. Changes nothing."""
    load = templates.load
    return schemas.show_compiled(await quick(load, body.text, body.file, body.settings))


@router.post("/parameters")
@requires(Scope.LABS_READ, reads=True)
async def list_template_parameters(
    body: schemas.ParametersText, templates: TemplatesDep
) -> schemas.Parameters:
    """Tell which parameters a template declares."""
    items = await quick(templates.parameters, body.text, body.file)
    return schemas.Parameters(parameters=[dict(item) for item in items])


@router.get("/schema")
@requires(Scope.LABS_READ)
async def get_template_schema(templates: TemplatesDep) -> dict[str, Any]:
    """Return the JSON Schema of templates, for editors."""
    return dict(await quick(templates.schema))


@router.get("")
@requires(Scope.LABS_READ)
async def list_templates(templates: TemplatesDep) -> schemas.Templates:
    """List the shipped templates."""
    items = await quick(templates.shipped)
    return schemas.Templates(
        templates=[
            schemas.TemplateBrief(
                name=item.name, file=item.file, description=item.description, problem=item.problem
            )
            for item in items
        ]
    )


@router.get("/{template}")
@requires(Scope.LABS_READ, about=NOBODYS)
async def get_template(template: schemas.TemplateName, templates: TemplatesDep) -> schemas.Template:
    """Return the text of a shipped template."""
    file, text = await quick(templates.text, template)
    return schemas.Template(name=template, file=file, text=text)
