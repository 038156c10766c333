"""The JSON Schema of lab templates, for editors (yaml-language-server) and for people."""

from __future__ import annotations

from typing import Any

from labd.template.form import LabForm, ParameterForm

ID = "https://labd.dev/schema/lab-template.json"


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the YAML form.

    Values may stand in for others as `${parameter}`, so numbers, booleans and enumerations also
    accept such a text.
    """
    made = LabForm.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "labd lab template"
    parameter = ParameterForm.model_json_schema()
    made["properties"]["parameters"] = {
        "type": "object",
        "description": "Parameters, put in by ${name} and set by --set name=value",
        "additionalProperties": parameter,
    }
    return _with_holes(made)  # type: ignore[no-any-return]


_HOLE = {"type": "string", "pattern": r"\$\{[a-z][a-z0-9-]*\}"}


def _with_holes(part: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(part, list):
        return [_with_holes(item) for item in part]
    if not isinstance(part, dict):
        return part
    changed = {key: _with_holes(item) for key, item in part.items()}
    kind = part.get("type")
    scalar = isinstance(kind, str) and kind in {"integer", "number", "boolean"}
    if scalar or isinstance(part.get("enum"), list):
        kept = {k: changed.pop(k) for k in ("description", "title", "default") if k in changed}
        return {"anyOf": [changed, _HOLE], **kept}
    return changed
