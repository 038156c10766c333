"""The real `TemplateFiles`: `labd.template`, and a folder of shipped templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labd.model.errors import NotFound, TemplateError
from labd.model.kinds import VM_ONLY, Kinds
from labd.model.names import did_you_mean, is_name
from labd.model.specs import LabSpec
from labd.template import load, parameters, schema


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


class ShippedTemplates:
    """Templates of a folder, `NAME.yaml` each.

    Args:
        folder: `lab-templates`, or None when the installation has none.
        kinds: Kinds of nodes that there are, and what each offers.
    """

    def __init__(self, folder: Path | None, kinds: Kinds = VM_ONLY) -> None:
        self._folder = folder
        self._kinds = kinds

    def load(self, text: str, file: str, settings: Mapping[str, str]) -> LabSpec:
        """See `TemplateFiles.load`."""
        return load(text, file, settings, kinds=self._kinds)

    def schema(self) -> Mapping[str, object]:
        """See `TemplateFiles.schema`."""
        return schema()

    def parameters(self, text: str, file: str) -> Sequence[Mapping[str, object]]:
        """See `TemplateFiles.parameters`."""
        return parameters(text, file)

    def _files(self) -> Mapping[str, Path]:
        if self._folder is None:
            return {}
        return {
            path.stem: path for path in sorted(self._folder.glob("*.yaml")) if is_name(path.stem)
        }

    def shipped(self) -> Sequence[ShippedTemplate]:
        """See `TemplateFiles.shipped`."""
        return [describe(self, name, path) for name, path in self._files().items()]

    def text(self, name: str) -> tuple[str, str]:
        """See `TemplateFiles.text`."""
        files = self._files()
        if name not in files:
            raise spell(name, list(files))
        return files[name].name, files[name].read_text(encoding="utf-8")
