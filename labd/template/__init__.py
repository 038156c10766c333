"""Lab templates: YAML in, a complete `LabSpec` out, and every mistake with file, line and column.

The way of a text: `document` reads YAML into plain data that knows its places, `parameters` puts
values in, `expand` repeats nodes with a `count`, `form` checks the shape (pydantic), and `compile`
checks what the shape cannot say and derives the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from labd.model.specs import LabSpec
from labd.template.compile import compile_lab
from labd.template.document import Problems, read
from labd.template.expand import expand
from labd.template.form import check_form
from labd.template.parameters import declared, put_in
from labd.template.schema import schema

__all__ = ["load", "parameters", "schema"]


def load(text: str, file: str, settings: Mapping[str, str] | None = None) -> LabSpec:
    """Compile a template.

    Args:
        text: YAML.
        file: Its name, for messages.
        settings: Parameter name -> value as text, as `--set` gives it.

    Raises:
        TemplateError: With every problem that was found.
    """
    problems = Problems(file)
    document = read(text, problems)
    problems.raise_if_any()
    values = declared(document, problems)
    problems.raise_if_any()
    put_in(document, values, dict(settings or {}), problems)
    problems.raise_if_any()
    expand(document, problems)
    problems.raise_if_any()
    form = check_form(document, problems)
    problems.raise_if_any()
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    spec = compile_lab(form, document, problems, digest=digest)
    problems.raise_if_any()
    return spec


def parameters(text: str, file: str) -> Sequence[Mapping[str, object]]:
    """Return the parameters that a template declares: name, type, default, description, choices.

    Raises:
        TemplateError: It cannot be read.
    """
    problems = Problems(file)
    document = read(text, problems)
    problems.raise_if_any()
    found = declared(document, problems)
    problems.raise_if_any()
    return [parameter.as_dict() for parameter in found.values()]
