"""Settings of a plugin, as its manifest declares them.

    string     text
    integer    a whole number, within `minimum` and `maximum` where given
    number     a number, so too
    boolean    true or false
    duration   seconds, written like 30s, 5m or 2h30m
    strings    a list of texts
    url        an http or https URL

Values come as JSON has them, or as text from a command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from labd.model.errors import InputError
from labd.model.names import did_you_mean
from labd.model.units import parse_duration

_KEYS = ("type", "default", "description", "choices", "minimum", "maximum")
_JSON_TYPES: Mapping[str, Mapping[str, object]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "duration": {"type": ["string", "number"], "description": "like 30s or 5m"},
    "strings": {"type": "array", "items": {"type": "string"}},
    "url": {"type": "string", "format": "uri"},
}
_NUMBERS = {"integer", "number", "duration"}
_LIMIT = 10**18  # as in text; and JSON as Python reads it has NaN, Infinity and endless integers


class Misplaced(InputError):
    """A mistake in a manifest, and the key that it is at."""

    def __init__(self, section: str, key: str, message: str) -> None:
        super().__init__(message)
        self.section, self.key = section, key


def _string(given: object) -> object:
    if not isinstance(given, str):
        raise InputError("must be text; put what looks like a number into double quotes")
    return given


def _integer(given: object) -> object:
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) < _LIMIT:
        return given
    if isinstance(given, str) and re.fullmatch(r"-?\d{1,18}", given):
        return int(given)
    raise InputError("must be a whole number")


def _number(given: object) -> object:
    if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < _LIMIT:
        return given
    if isinstance(given, str) and re.fullmatch(r"-?\d{1,18}(\.\d{1,9})?", given):
        return float(given)
    raise InputError("must be a number")


def _boolean(given: object) -> object:
    if isinstance(given, bool):
        return given
    if given in ("true", "false"):
        return given == "true"
    raise InputError("must be true or false")


def _duration(given: object) -> object:
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < _LIMIT:
        return given
    if isinstance(given, str):
        return parse_duration(given)
    raise InputError("must be a duration, like 30s or 5m")


def _strings(given: object) -> object:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    if isinstance(given, list | tuple) and all(isinstance(item, str) for item in given):
        return list(given)
    raise InputError("must be a list of texts, or one text with commas between")


def _url(given: object) -> object:
    wrong = "must be an http or https URL, like https://example.org/events"
    try:
        parts = urlsplit(given) if isinstance(given, str) else None
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InputError(wrong)
        if parts.port == 0 or re.search(r"[\x00-\x20\x7f]", str(given)):
            raise InputError(wrong)
    except ValueError as error:
        raise InputError(wrong) from error
    return given


_PARSERS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "duration": _duration,
    "strings": _strings,
    "url": _url,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        default: None when it must be given.
        choices: All that is allowed, of `strings` for each; empty for anything.
        minimum, maximum: For numbers; durations in seconds.
    """

    type: str = "string"
    default: object = None
    description: str = ""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def value(self, given: object) -> object:
        """Return the value that was given.

        Raises:
            InputError: It does not fit.
        """
        value = _PARSERS[self.type](given)
        each = value if isinstance(value, list) else [value]
        if self.choices and any(item not in self.choices for item in each):
            raise InputError(f"must be {self._one} {', '.join(self.choices)}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                raise InputError(f"must be at least {self.minimum:g}")
            if self.maximum is not None and value > self.maximum:
                raise InputError(f"must be at most {self.maximum:g}")
        return value

    @property
    def _one(self) -> str:
        return "some of" if self.type == "strings" else "one of"

    def schema(self) -> dict[str, object]:
        """Return it as JSON Schema."""
        entry: dict[str, object] = dict(_JSON_TYPES[self.type])
        if self.description:
            entry["description"] = self.description
        if self.choices:
            if self.type == "strings":
                entry["items"] = {"type": "string", "enum": list(self.choices)}
            else:
                entry["enum"] = list(self.choices)
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        entry |= {key: bound for key, bound in bounds.items() if bound is not None}
        if self.default is not None:
            entry["default"] = self.default
        return entry


def texts(value: object, section: str, key: str) -> tuple[str, ...]:
    """Return a list of texts.

    Raises:
        Misplaced: It is none.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Misplaced(section, key, f'{key} must be a list of texts, like ["a", "b"]')
    return tuple(value)


def read_setting(name: str, entry: object) -> Setting:
    """Read the table `[settings.NAME]` of a manifest.

    Raises:
        Misplaced: It is wrong.
    """
    section = f"settings.{name}"
    if not isinstance(entry, Mapping):
        raise Misplaced("settings", name, f"{section} must be a table, like [{section}]")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise Misplaced(section, "", f"setting name '{name[:64]}': use a-z, 0-9 and '-'")
    for key in entry:
        if key not in _KEYS:
            wrong = f"unknown key '{key[:64]}' in {section}{did_you_mean(key, _KEYS)}"
            raise Misplaced(section, key, wrong)
    kind = entry.get("type", "string")
    if not isinstance(kind, str):
        raise Misplaced(section, "type", f"{section}: type must be text, such as string")
    if kind not in _PARSERS:
        wrong = f"{section}: unknown type {kind!r}{did_you_mean(kind, _PARSERS)}"
        raise Misplaced(section, "type", wrong)
    setting = Setting(
        type=kind,
        default=entry.get("default"),
        description=str(entry.get("description", "")),
        choices=texts(entry.get("choices", []), section, "choices"),
        minimum=_bound(entry, section, "minimum"),
        maximum=_bound(entry, section, "maximum"),
    )
    if setting.default is not None:
        try:
            setting.value(setting.default)
        except InputError as error:
            raise Misplaced(section, "default", f"{section}: default {error.message}") from error
    return setting


def _bound(entry: Mapping[str, object], section: str, key: str) -> float | None:
    bound = entry.get(key)
    if bound is None:
        return None
    if entry.get("type") not in _NUMBERS:
        raise Misplaced(section, key, f"{section}: {key} is for integer, number and duration")
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise Misplaced(section, key, f"{section}: {key} must be a number")
    return bound
