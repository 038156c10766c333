"""The JSON Schema of lab templates, for editors (yaml-language-server) and for people."""

from __future__ import annotations

from typing import Any, Final

from labd.model.names import NAME_PATTERN
from labd.model.specs import RestartMode
from labd.template.form import LabForm
from labd.template.parameters import TYPES

_HOLE: Final = {"type": "string", "pattern": r"\$\{[a-z][a-z0-9-]*\}"}
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
_NULL: Final = {"type": "null"}
# What pydantic calls a bound behind a validator of one's own.
_BOUNDS: Final = {"ge": "minimum", "le": "maximum", "max_length": "maxLength"}
_PARAMETER: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Parameter",
    "description": "A value that is put in at ${NAME}",
    "additionalProperties": False,
    "properties": {
        "type": {"enum": list(TYPES), "default": "string", "description": "What it may be"},
        "default": {
            "type": ["string", "number", "boolean", "null"],
            "description": "Left out: --set must give a value",
        },
        "description": {**_SCALAR, "description": "For people"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": _SCALAR,
            "description": "With type: choice, what may be chosen",
        },
    },
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the YAML form.

    Any value may be a `${parameter}`, so numbers, booleans, enumerations and names also take that.
    """
    made: dict[str, Any] = _tidy(LabForm.model_json_schema())
    node = made["$defs"]["NodeForm"]
    node["anyOf"] = [{"required": ["image"]}, {"required": ["profile"]}]
    for holder, name in ((made, "networks"), (node, "nics")):
        entries = holder["properties"][name]
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], _NULL]}
    _also(made, "networks", _NULL)
    _also(made, "links", _NULL)
    _also(node, "restart", {"enum": [str(mode) for mode in RestartMode]})
    _also(node, "ready", {"const": "agent"})
    waits = {"type": "array", "items": {"type": "string"}, "description": "Until all are ready"}
    _also(node, "depends_on", waits)
    made["properties"]["parameters"] = {
        **made["properties"]["parameters"],
        "type": ["object", "null"],
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": _PARAMETER,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "labd lab template",
    }


def _also(holder: dict[str, Any], name: str, shape: dict[str, Any]) -> None:
    """Let a property have another shape too: a short form that a validator turns into the long."""
    before = holder["properties"][name]
    kept = {key: before.pop(key) for key in ("description", "default") if key in before}
    holder["properties"][name] = {"anyOf": [before, shape], **kept}


def _tidy(part: Any) -> Any:  # noqa: ANN401 - plain data
    """Drop what pydantic says besides, name the keys of maps, and let `${...}` stand in."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    made: dict[str, Any] = {}
    for key, item in part.items():
        if key in {"properties", "$defs"}:
            made[key] = {name: _tidy(value) for name, value in item.items()}
        elif key == "patternProperties":
            ((pattern, entry),) = item.items()
            made["propertyNames"] = {"pattern": pattern}
            made["additionalProperties"] = _tidy(entry)
        elif key != "title" and not (key == "default" and item is None):
            inside = key in {"anyOf", "items", "additionalProperties"}
            made[str(_BOUNDS.get(key, key))] = _tidy(item) if inside else item
    if isinstance(made.get("anyOf"), list):
        made["anyOf"] = _flat(made["anyOf"])
    if made.get("type") in ("integer", "number", "boolean") or "pattern" in made or "enum" in made:
        kept = {key: made.pop(key) for key in ("description", "default") if key in made}
        return {"anyOf": [made, _HOLE], **kept}
    return made


def _flat(shapes: list[Any]) -> list[Any]:
    """Return alternatives without alternatives inside, `${...}` once and at the end."""
    found: list[Any] = []
    for shape in shapes:
        found += shape["anyOf"] if shape.keys() == {"anyOf"} else [shape]
    rest = [shape for shape in found if shape != _HOLE]
    return rest + ([_HOLE] if len(rest) < len(found) else [])
