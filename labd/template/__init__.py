"""Lab templates: YAML in, a complete `LabSpec` out, and every mistake with file, line and column.

The way of a text: `document` reads YAML into plain data that knows its places, `parameters` chooses
values, `expand` repeats nodes with a `count` and puts the values in, `form` is the shape (pydantic)
and `complaints` says what does not fit it, `compile` and `addresses` check what a shape cannot say
and derive the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from labd.model.kinds import VM_ONLY, Kinds
from labd.model.specs import LabSpec
from labd.template.compile import compile_lab
from labd.template.complaints import check_form
from labd.template.document import Problems, read
from labd.template.expand import expand
from labd.template.parameters import choose, declared
from labd.template.schema import schema

__all__ = ["load", "parameters", "schema"]


def load(
    text: str, file: str, settings: Mapping[str, str] | None = None, *, kinds: Kinds = VM_ONLY
) -> LabSpec:
    """Compile a template.

    Args:
        text: YAML.
        file: Its name, for messages.
        settings: Parameter name -> value as text, as `--set` gives it.
        kinds: Kinds of nodes that there are, and what each offers.

    Raises:
        TemplateError: With every problem of the first of these steps that found any: reading,
            declarations, settings (its file is then `--set`), values, shape, meaning.
    """
    problems = Problems(file, settings)
    document = read(text, problems)
    problems.raise_if_any()
    found = declared(document, problems)
    problems.raise_if_any()
    values = choose(document, found, dict(settings or {}), problems)
    problems.raise_if_any()
    expand(document, values, problems)
    problems.raise_if_any()
    form = check_form(document, problems)
    problems.raise_if_any()
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    spec = compile_lab(form, document, problems, digest=digest, kinds=kinds)
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
