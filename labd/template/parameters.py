"""Parameters of a template: declared with types and defaults, put in by `${name}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labd.model.errors import InputError
from labd.model.names import did_you_mean, is_name
from labd.model.units import parse_duration, parse_size
from labd.template.document import Document, Path, Problems

_KEYS = ("type", "default", "description", "choices")
_HOLE = re.compile(r"\$\{([^}]*)\}")
# Filled later, for each copy of a counted node.
LATER = "index"


def _string(text: str) -> object:
    if not text.isprintable():
        raise InputError("has a control character")
    return text


def _integer(text: str) -> object:
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise InputError("is no whole number")
    return int(text)


def _number(text: str) -> object:
    if not re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,9})?", text):
        raise InputError("is no number")
    return float(text)


def _boolean(text: str) -> object:
    if text not in {"true", "false"}:
        raise InputError("must be true or false")
    return text == "true"


def _size(text: str) -> object:
    parse_size(text)
    return text


def _duration(text: str) -> object:
    parse_duration(text)
    return text


def _name(text: str) -> object:
    if not is_name(text):
        raise InputError("is no name: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter")
    return text


TYPES: Mapping[str, Callable[[str], object]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "size": _size,
    "duration": _duration,
    "name": _name,
    "choice": _string,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One declared parameter. `default` is None when a value must be given."""

    name: str
    type: str
    default: str | None
    description: str
    choices: tuple[str, ...]

    def value(self, text: str) -> object:
        """Return the value that a text stands for.

        Raises:
            InputError: It is not of the type.
        """
        if self.type == "choice" and text not in self.choices:
            raise InputError(f"must be one of {', '.join(self.choices)}")
        return TYPES[self.type](text)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "default": self.default,
            "description": self.description,
            "choices": list(self.choices),
        }


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def declared(document: Document, problems: Problems) -> dict[str, Parameter]:
    """Return the declared parameters by name."""
    section = document.data.get("parameters")
    if section is None:
        return {}
    if not isinstance(section, dict):
        problems.add(
            "parameters must be a mapping of name: {type: ...}", document.place(("parameters",))
        )
        return {}
    found = {}
    for name in section:
        parameter = _declared(document, name, problems)
        if parameter is not None:
            found[name] = parameter
    return found


def _declared(document: Document, name: str, problems: Problems) -> Parameter | None:
    path: Path = ("parameters", name)
    entry = document.data["parameters"][name]
    if not is_name(name) or name == LATER:
        problems.add(f"parameter name '{name[:64]}' is not valid", document.key_place(path))
        return None
    if not isinstance(entry, dict):
        problems.add(
            f"parameter {name} must be a mapping like {{type: string, default: x}}",
            document.place(path),
        )
        return None
    for key in entry:
        if key not in _KEYS:
            message = f"unknown key '{key[:64]}' in parameter {name}{did_you_mean(key, _KEYS)}"
            problems.add(message, document.key_place((*path, key)))
    kind = entry.get("type", "string")
    if kind not in TYPES:
        problems.add(
            f"parameter {name}: unknown type {kind!r}{did_you_mean(str(kind), TYPES)}",
            document.place((*path, "type")),
        )
        return None
    choices = entry.get("choices", [])
    if not isinstance(choices, list) or bool(choices) != (kind == "choice"):
        problems.add(
            f"parameter {name}: choices is a list, and goes with type: choice", document.place(path)
        )
        return None
    default = entry.get("default")
    parameter = Parameter(
        name=name,
        type=str(kind),
        default=None if default is None else _text(default),
        description=_text(entry.get("description", "")),
        choices=tuple(_text(choice) for choice in choices),
    )
    if parameter.default is not None:
        try:
            parameter.value(parameter.default)
        except InputError as error:
            problems.add(
                f"parameter {name}: default {parameter.default!r}: {error.message}",
                document.place((*path, "default")),
            )
    return parameter


def put_in(
    document: Document,
    parameters: Mapping[str, Parameter],
    settings: Mapping[str, str],
    problems: Problems,
) -> None:
    """Replace `${name}` everywhere outside `parameters:`; the values used stay in the document."""
    for name in settings:
        if name not in parameters:
            problems.add(
                f"--set {name[:64]}: the template has no such parameter"
                f"{did_you_mean(name, parameters)}"
            )
    values: dict[str, object] = {}
    for name, parameter in parameters.items():
        text = settings.get(name, parameter.default)
        if text is None:
            problems.add(
                f"parameter {name} has no default: give it with --set {name}=VALUE",
                document.key_place(("parameters", name)),
            )
            continue
        try:
            values[name] = parameter.value(text)
        except InputError as error:
            if name in settings:
                problems.add(f"--set {name}={text[:64]}: {error.message}")
    document.data["parameters"] = {name: _text(value) for name, value in values.items()}
    for key in document.data:
        if key != "parameters":
            fill = _Filler(document, parameters, values, problems)
            document.data[key] = fill.value(document.data[key], (key,))


class _Filler:
    def __init__(
        self,
        document: Document,
        parameters: Mapping[str, Parameter],
        values: Mapping[str, object],
        problems: Problems,
    ) -> None:
        self._document = document
        self._parameters = parameters
        self._values = values
        self._problems = problems

    def value(self, data: Any, path: Path) -> Any:  # noqa: ANN401 - plain data
        if isinstance(data, dict):
            return {key: self.value(item, (*path, key)) for key, item in data.items()}
        if isinstance(data, list):
            return [self.value(item, (*path, index)) for index, item in enumerate(data)]
        return self._text(data, path) if isinstance(data, str) and "${" in data else data

    def _text(self, text: str, path: Path) -> object:
        for name in _HOLE.findall(text):
            if name != LATER and name not in self._parameters:
                self._problems.add(
                    f"there is no parameter '{name[:64]}'{did_you_mean(name, self._parameters)}",
                    self._document.place(path),
                )
        whole = _HOLE.fullmatch(text)
        if whole and whole[1] in self._values:
            return self._values[whole[1]]
        return _HOLE.sub(
            lambda hole: _text(self._values[hole[1]]) if hole[1] in self._values else hole[0], text
        )
