"""What goes over the wire of templates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import Field

from labd.api.models import Body, Wire
from labd.model.names import NAME_PATTERN
from labd.model.specs import LabSpec

TemplateName = Annotated[str, Path(pattern=NAME_PATTERN)]


class TemplateText(Body):
    """A lab template, and the values for its parameters."""

    text: str = Field(max_length=512 * 1024)
    file: str = Field(default="template", max_length=4096, description="For messages only")
    settings: dict[str, str] = Field(default_factory=dict)


class ParametersText(Body):
    """A lab template."""

    text: str = Field(max_length=512 * 1024)
    file: str = Field(default="template", max_length=4096, description="For messages only")


class Compiled(Wire):
    """A template that is right."""

    name: str
    description: str
    nodes: list[str]
    networks: list[str]
    spec: LabSpec


class Parameters(Wire):
    """Parameters that a template declares."""

    parameters: list[dict[str, Any]]


class TemplateBrief(Wire):
    """A shipped template."""

    name: str
    file: str
    description: str
    problem: str


class Templates(Wire):
    """The shipped templates."""

    templates: list[TemplateBrief]


class Template(Wire):
    """A shipped template with its text."""

    name: str
    file: str
    text: str


def show_compiled(spec: LabSpec) -> Compiled:
    """Show what a template says."""
    return Compiled(
        name=spec.template,
        description=spec.description,
        nodes=[item.name for item in spec.nodes],
        networks=[item.name for item in spec.networks],
        spec=spec,
    )
