"""Lab templates for the API: compile a text, and list the ones that are shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labd.model.errors import NotFound, TemplateError
from labd.model.names import did_you_mean
from labd.model.specs import LabSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedTemplate:
    """A template in the shipped folder.

    Attributes:
        problem: Why it cannot be read, or empty.
    """

    name: str
    file: str
    description: str = ""
    problem: str = ""


class TemplateFiles(Protocol):
    """What the API needs of templates. Every call may block on files: call it in a thread."""

    def load(self, text: str, file: str, settings: Mapping[str, str]) -> LabSpec:
        """Compile a template; TemplateError tells each problem with its place."""

    def schema(self) -> Mapping[str, object]:
        """Return the JSON Schema of the YAML form."""

    def parameters(self, text: str, file: str) -> Sequence[Mapping[str, object]]:
        """Return the parameters that a template declares."""

    def shipped(self) -> Sequence[ShippedTemplate]:
        """Return the shipped templates by name."""

    def text(self, name: str) -> tuple[str, str]:
        """Return file name and text of a shipped template; NotFound when there is none."""


def spell(name: str, known: Sequence[str]) -> NotFound:
    """Return the error for a shipped template that does not exist."""
    return NotFound(f"there is no shipped template {name}{did_you_mean(name, known)}")


def describe(files: TemplateFiles, name: str, path: Path) -> ShippedTemplate:
    """Compile a shipped template for the listing; a broken one is listed with its problem."""
    try:
        spec = files.load(path.read_text(encoding="utf-8"), path.name, {})
    except TemplateError as error:
        return ShippedTemplate(name=name, file=path.name, problem=error.message.splitlines()[0])
    return ShippedTemplate(name=name, file=path.name, description=spec.description)
