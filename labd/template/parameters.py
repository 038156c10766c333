"""Parameters of a template: declared with types and defaults, put in by `${name}`.

`$${` stands for a plain `${`, as in Compose files. `${index}` is the number of the copy inside a
node with a `count`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from labd.model.errors import InputError
from labd.model.names import did_you_mean, is_name
from labd.model.units import parse_duration, parse_size
from labd.template.document import Document, Path, Problems

INDEX: Final = "index"
_KEYS = ("type", "default", "description", "choices")
_HOLE = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_MAX_PARAMETERS = 64
_MAX_VALUE = 1024  # characters
_MAX_FILLED = 4096  # characters of one text of the template with its values put in
_MAX_FILLED_LONG = 32 << 10  # of one that is a text of many lines by nature
_LONG_KEYS = frozenset({"user_data"})
_MAX_FILLED_TOTAL = 8 << 20  # of all of them: a short text with many copies could fill the memory


def _string(text: str) -> None:
    if not text.isprintable():
        raise InputError("control characters and line ends are not allowed")


def _integer(text: str) -> None:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise InputError("write a whole number")


def _number(text: str) -> None:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,9})?", text):
        raise InputError("write a number, like 3 or 0.5")


def _boolean(text: str) -> None:
    if text not in {"true", "false"}:
        raise InputError("write true or false")


def _size(text: str) -> None:
    parse_size(text)
    if not text.strip()[-1:].isalpha():
        raise InputError(f"write a size with a unit, like {text.strip()} MiB")


def _duration(text: str) -> None:
    parse_duration(text)


def _name(text: str) -> None:
    if not is_name(text):
        raise InputError(
            "not a valid name: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"
        )


TYPES: Final[Mapping[str, Callable[[str], None]]] = {
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

    def check(self, text: str) -> None:
        """Check a value.

        Raises:
            InputError: It is not of the type.
        """
        if len(text) > _MAX_VALUE:
            raise InputError(f"is too long: {_MAX_VALUE} characters at most")
        if self.type == "choice" and text not in self.choices:
            raise InputError(f"must be one of {', '.join(self.choices)}")
        TYPES[self.type](text)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "default": self.default,
            "description": self.description,
            "choices": list(self.choices),
        }


def declared(document: Document, problems: Problems) -> dict[str, Parameter]:
    """Return the declared parameters by name."""
    section = document.data.get("parameters")
    if section is None:
        return {}
    place = document.place(("parameters",))
    if not isinstance(section, dict):
        problems.add("parameters: write a mapping, like {memory: {type: size}}", place)
        return {}
    if len(section) > _MAX_PARAMETERS:
        problems.add(f"parameters: {_MAX_PARAMETERS} at most, not {len(section)}", place)
        return {}
    found = {}
    for name, entry in section.items():
        parameter = _declared(document, name, entry, problems)
        if parameter is not None:
            found[name] = parameter
    return found


def _declared(document: Document, name: str, entry: object, problems: Problems) -> Parameter | None:
    path: Path = ("parameters", name)
    where = f"parameter {name[:64]}"
    if not is_name(name) or name == INDEX:
        why = "is the number of a copy" if name == INDEX else "is not a valid name"
        problems.add(
            f"parameter name '{name[:64]}' {why}; choose another", document.key_place(path)
        )
        return None
    if not isinstance(entry, dict):
        problems.add(
            f"{where}: write a mapping, like {{type: string, default: x}}", document.place(path)
        )
        return None
    for key in entry:
        if key not in _KEYS:
            message = f"unknown key '{key[:64]}' in {where}{did_you_mean(key, _KEYS)}"
            problems.add(message, document.key_place((*path, key)))
    kind = document.texts.get((*path, "type"), "") if "type" in entry else "string"
    if kind not in TYPES:
        shown = f"unknown type '{kind[:64]}'{did_you_mean(kind, TYPES)}"
        message = shown if kind else f"type: write one of {', '.join(TYPES)}"
        problems.add(f"{where}: {message}", document.place((*path, "type")))
        return None
    choices = _choices(document, path, entry, kind, problems)
    default = _written(document, (*path, "default"), entry, problems)
    description = _written(document, (*path, "description"), entry, problems) or ""
    if choices is None:
        return None
    parameter = Parameter(
        name=name, type=kind, default=default, description=description, choices=choices
    )
    if default is not None:
        try:
            parameter.check(default)
        except InputError as error:
            message = f"{where}: default '{default[:64]}': {error.message}"
            problems.add(message, document.place((*path, "default")))
    return parameter


def _choices(
    document: Document, path: Path, entry: dict[str, Any], kind: str, problems: Problems
) -> tuple[str, ...] | None:
    """Return what is to be chosen from, as written; None after a problem."""
    given = entry.get("choices")
    count = len(given) if isinstance(given, list) else 0
    if kind != "choice":
        if "choices" not in entry:
            return ()
        message = f"parameter {path[1]}: choices go with type: choice"
        problems.add(message, document.key_place((*path, "choices")))
        return None
    texts = [document.texts.get((*path, "choices", index)) for index in range(count)]
    found = tuple(text for text in texts if text)
    if not found or len(found) != count:
        message = f"parameter {path[1]}: type choice needs choices: [this, that]"
        problems.add(message, document.place((*path, "choices")))
        return None
    return found


def _written(
    document: Document, path: Path, entry: dict[str, Any], problems: Problems
) -> str | None:
    """Return a scalar as it was written, None for none: `1.10` is not the number 1.1 here."""
    value = entry.get(str(path[-1]))
    if value is None:
        return None
    if isinstance(value, dict | list):
        problems.add(f"parameter {path[1]}: {path[-1]}: write one value", document.place(path))
        return None
    return document.texts[path]


def choose(
    document: Document,
    parameters: Mapping[str, Parameter],
    settings: Mapping[str, str],
    problems: Problems,
) -> Mapping[str, str]:
    """Return the values: what was set, else the defaults.

    Raises:
        TemplateError: Of the file `--set`, when settings are wrong. The line is the number of the
            setting, from 1, the column is one in its `KEY=VALUE`.
    """
    wrong = Problems("--set")
    for number, (name, text) in enumerate(settings.items(), 1):
        parameter = parameters.get(name)
        if parameter is None:
            near = did_you_mean(name, parameters) or "; the template has none"
            wrong.add(f"there is no parameter '{name[:64]}'{near}", (number, 1))
            continue
        try:
            parameter.check(text)
        except InputError as error:
            message = f"parameter {name}: '{text[:64]}': {error.message}"
            wrong.add(message, (number, len(name) + 2))
    wrong.raise_if_any()
    values = {}
    for name, parameter in parameters.items():
        value = settings.get(name, parameter.default)
        if value is None:
            message = f"parameter {name} has no default; give it with --set {name}=VALUE"
            problems.add(message, document.key_place(("parameters", name)))
        else:
            values[name] = value
    return values


def fill(document: Document, values: Mapping[str, str], problems: Problems) -> None:
    """Put the values in everywhere outside `parameters:`."""
    for key, section in document.data.items():
        if key == "parameters":
            continue
        if key == "nodes" and isinstance(section, dict):
            for name, node in section.items():
                filler = Filler(document, values, problems, document.copies.get(name))
                section[name] = filler.value(node, (key, name))
        else:
            document.data[key] = Filler(document, values, problems).value(section, (key,))
    document.data["parameters"] = dict(values)


class Filler:
    """Puts values into plain data, below one path of a document.

    Args:
        index: Number of the copy, None outside of nodes with a count.
    """

    def __init__(
        self,
        document: Document,
        values: Mapping[str, str],
        problems: Problems,
        index: int | None = None,
    ) -> None:
        self._document = document
        self._problems = problems
        own = {} if index is None else {INDEX: str(index)}
        self._values = {**values, **own}

    def value(self, data: Any, path: Path) -> Any:  # noqa: ANN401 - plain data
        """Return a copy of `data` with its holes filled."""
        if isinstance(data, dict):
            return {key: self.value(item, (*path, key)) for key, item in data.items()}
        if isinstance(data, list):
            return [self.value(item, (*path, index)) for index, item in enumerate(data)]
        return self._text(data, path) if isinstance(data, str) and "${" in data else data

    def _text(self, text: str, path: Path) -> str:
        if self._document.filled > _MAX_FILLED_TOTAL:
            return ""
        problems: list[str] = []

        def put(hole: re.Match[str]) -> str:
            if hole[0] == "$${":
                return "${"
            if not hole[2]:
                problems.append("'${' without '}'; write ${NAME}, or $${ for a plain ${")
            elif hole[1] not in self._values:
                problems.append(self._unknown(hole[1]))
            return self._values.get(str(hole[1]), "")

        filled = _HOLE.sub(put, text)
        limit = _MAX_FILLED_LONG if path[-1:] and path[-1] in _LONG_KEYS else _MAX_FILLED
        if len(filled) > limit:
            problems.append(f"is longer than {limit} characters; write less")
        self._document.filled += len(filled)
        if self._document.filled > _MAX_FILLED_TOTAL:
            size = f"{_MAX_FILLED_TOTAL >> 20} MiB"
            problems.append(f"the lab is larger than {size} with its values put in; split it")
        place = self._document.place(path)
        for problem in problems:
            self._problems.add(problem, place)
        for hole in () if problems else _HOLE.finditer(text):
            self._problems.put_in(str(hole[1]), place)
        return "" if problems else filled

    def _unknown(self, name: str) -> str:
        if name == INDEX:
            return "${index} is the number of a copy; it goes into nodes with a count"
        near = did_you_mean(name, self._values) or "; write $${ for a plain ${"
        return f"there is no parameter '{name[:64]}'{near}"
