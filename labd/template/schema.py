"""The JSON Schema of lab templates, for editors (yaml-language-server) and for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from labd.model.names import NAME_PATTERN
from labd.template.form import LabForm
from labd.template.parameters import TYPES

_HOLE: Final = {"type": "string", "pattern": r"\$\{[a-z][a-z0-9-]*\}"}
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
# What pydantic calls a bound behind a validator of one's own.
_BOUNDS: Final = {"ge": "minimum", "le": "maximum"}
_LONGEST: Final = {"array": "maxItems", "object": "maxProperties"}
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
    node["anyOf"] = [_given("image", {"minLength": 1}), _given("profile", {"type": "string"})]
    made["properties"]["parameters"] = {
        "description": made["properties"]["parameters"]["description"],
        "type": ["object", "null"],
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": _PARAMETER,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "labd lab template",
    }


def _given(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    return {"required": [name], "properties": {name: shape}}


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
            made.setdefault("propertyNames", {})["pattern"] = pattern
            made["additionalProperties"] = _tidy(entry)
        elif key == "propertyNames":
            made.setdefault(key, {}).update(item)
        elif key != "title" and not (key == "default" and item is None):
            inside = key in {"anyOf", "items", "additionalProperties"}
            name = _LONGEST.get(str(part.get("type")), "maxLength") if key == "max_length" else key
            made[_BOUNDS.get(name, name)] = _tidy(item) if inside else item
    if isinstance(made.get("anyOf"), list):
        made["anyOf"] = _flat(made["anyOf"])
    others = _others(made)
    if not others:
        return made
    kept = {key: made.pop(key) for key in ("description", "default") if key in made}
    return {"anyOf": [made, *others], **kept}


def _others(shape: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what may stand for a scalar: `${...}`, and what a parameter would put there."""
    kind = shape.get("type")
    if kind == "integer":
        return [{"type": "string", "pattern": whole_pattern(shape)}, _HOLE]
    if kind == "boolean":
        return [{"enum": ["true", "false"]}, _HOLE]
    return [_HOLE] if kind == "number" or "pattern" in shape or "enum" in shape else []


def whole_pattern(shape: Mapping[str, Any]) -> str:
    """Return the pattern (ECMA 262) of a whole number in quotes, with bounds if there are both."""
    digits = "[+-]?[0-9]{1,18}"
    if not {"minimum", "maximum"} <= shape.keys():
        return f"^{digits}$"
    least, most = shape["minimum"], shape["maximum"]
    parts = []
    for length in range(len(str(least)), len(str(most)) + 1):
        first = max(least, 10 ** (length - 1) if length > 1 else 0)
        parts.append(_between(str(first), str(min(most, 10**length - 1))))
    zero = "|-0+" if least == 0 else ""
    return f"^(?={digits}$)(\\+?0*({'|'.join(parts)}){zero})$"


def _between(first: str, last: str) -> str:
    """Return the pattern of the numbers from one to another of as many digits."""
    if first == last:
        return first
    low, high, rest = int(first[0]), int(last[0]), len(first) - 1
    if not rest:
        return f"[{low}-{high}]"
    if low == high:
        return f"{low}{_between(first[1:], last[1:])}"
    found = [f"{low}{_between(first[1:], '9' * rest)}"]
    if high - low > 1:
        found.append(f"[{low + 1}-{high - 1}][0-9]{{{rest}}}")
    found.append(f"{high}{_between('0' * rest, last[1:])}")
    return f"({'|'.join(found)})"


def _flat(shapes: list[Any]) -> list[Any]:
    """Return alternatives without alternatives inside, `${...}` once and at the end."""
    found: list[Any] = []
    for shape in shapes:
        found += shape["anyOf"] if shape.keys() == {"anyOf"} else [shape]
    rest = [shape for shape in found if shape != _HOLE]
    return rest + ([_HOLE] if len(rest) < len(found) else [])
