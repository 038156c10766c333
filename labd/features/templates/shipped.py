"""The real `TemplateFiles`: `labd.template`, and a folder of shipped templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labd.features.templates.port import ShippedTemplate, describe, spell
from labd.model.names import is_name
from labd.model.specs import LabSpec
from labd.template import load, parameters, schema


class ShippedTemplates:
    """Templates of a folder, `NAME.yaml` each.

    Args:
        folder: `lab-templates`, or None when the installation has none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, text: str, file: str, settings: Mapping[str, str]) -> LabSpec:
        """See `TemplateFiles.load`."""
        return load(text, file, settings)

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
