"""The values of template keys: how each kind is written, read and refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from labd.model.errors import InputError
from labd.model.names import NAME_PATTERN, is_name
from labd.model.specs import DependsOn
from labd.model.units import (
    DURATION_PATTERN,
    MAX_SECONDS,
    SIZE_PATTERN,
    parse_duration,
    parse_size,
)
from labd.template.keys import Bytes

MAX_ENTRIES: Final = 64  # of lists that have no limit of their own
MAX_WORD: Final = 1024  # characters
_SHELL: Final = "|&;<>$`*?"  # what is read by shells only
_WORDS = rf"[^{_SHELL}]*"
_COMMAND_PATTERN = rf"^(?!.*\S{{{MAX_WORD + 1}}}){_WORDS}[^\s{_SHELL}]{_WORDS}$"
MAX_CLOUD_CONFIG: Final = 32 << 10  # characters
_NAME_HELP = "use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("labd", "{message}", {"message": message})


def _name(value: object) -> object:
    if value is None:
        raise _wrong(f"write a name; {_NAME_HELP}")
    if not is_name(value):
        raise _wrong(f"'{str(value)[:64]}' is not a valid name: {_NAME_HELP}")
    return value


def _size(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise _wrong(f"write a size with a unit, like {value:g} MiB")
    if not isinstance(value, str):
        raise _wrong("write a size with a unit, like 256 MiB")
    try:
        size = parse_size(value)
    except InputError as error:
        raise _wrong(error.message) from error
    if not value.strip()[-1:].isalpha():
        raise _wrong(f"write a size with a unit, like {value.strip()} MiB")
    return size


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong("write a duration, like 90s or 5m")
    try:
        return parse_duration(str(value))
    except InputError as error:
        raise _wrong(error.message) from error


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)  # as parameters come
    raise _wrong("write a whole number")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"  # as parameters come
    raise _wrong("write true or false")  # yes, no, on and off are words in YAML 1.2


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    if not value.isprintable():
        raise _wrong("control characters and line ends are not allowed here")
    return value


def _prose(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    return _text(value.replace("\n", " ").rstrip())


def _argv(value: object) -> list[str]:
    if isinstance(value, str):
        if set(value) & set(_SHELL):
            raise _wrong("no shell reads it; write [sh, -c, ...] for one that does")
        try:
            value = shlex.split(value)
        except ValueError:
            raise _wrong("a quote is not closed") from None
    if not isinstance(value, list) or not value:
        raise _wrong('write a command as a list of words, like [ping, -c, "1", server]')
    for word in value:
        if not isinstance(word, str) or not word:
            raise _wrong(f"'{str(word)[:64]}' is no word; put numbers and the like in quotes")
        if not word.isprintable():
            raise _wrong("control characters and line ends are not allowed here")
    if len(value) > MAX_ENTRIES or any(len(word) > MAX_WORD for word in value):
        raise _wrong(f"has at most {MAX_ENTRIES} words of at most {MAX_WORD} characters")
    return list(value)


def to_needs(value: object) -> object:
    """Take a list of names, of nodes that shall be ready, for the mapping."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value, DependsOn.READY)
    if not isinstance(value, dict):
        raise _wrong("write names of nodes, like [db, web] or {db: ready, web: running}")
    return value


def to_restart(value: object) -> object:
    """Take a mode alone for a mapping with it."""
    if not isinstance(value, str | dict):
        raise _wrong("write no, on-failure or always, or a mapping, like {limit: 3}")
    return {"mode": value} if isinstance(value, str) else value


def to_ready(value: object) -> object:
    """Take `agent` alone for a mapping with it."""
    if value != "agent" and not isinstance(value, dict):
        raise _wrong("write agent, or a mapping, like {console: 'login:'}")
    return {"agent": True} if value == "agent" else value


def _served(value: object) -> object:
    """Take true for a mapping without keys, and false for none."""
    if isinstance(value, dict) or value is None:
        return value
    try:
        return {} if _flag(value) else None
    except PydanticCustomError:
        raise _wrong("write true, or a mapping") from None


def _values(value: object) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise _wrong("write a mapping, like {ntp-server: 10.0.1.1}")
    found = {}
    for key, item in value.items():
        items = item if isinstance(item, list) else [item]
        if any(isinstance(one, bool) or not isinstance(one, str | int) for one in items):
            raise _wrong(f"'{str(key)[:64]}' must be a text, a number or a list of addresses")
        found[str(key)] = [_text(str(one)) for one in items]
    return found


def to_cloud_config(value: object) -> object:
    """Take nothing for an empty text, and refuse what is too long."""
    if value is None:
        return ""
    if not isinstance(value, str | dict):
        raise _wrong("write a text of YAML, user_data: |, or a mapping")
    if isinstance(value, str) and len(value) > MAX_CLOUD_CONFIG:
        raise _wrong(f"is too long: {MAX_CLOUD_CONFIG} characters at most")
    return value


def to_empty(value: object) -> object:
    """Take `lan:` without a value for `lan: {}`."""
    return {} if value is None else value


@dataclass(frozen=True, slots=True)
class Also:
    """Lets the JSON Schema have other shapes, which a validator takes for the one that it makes."""

    shapes: tuple[Mapping[str, Any], ...]

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of the type, or one of the others."""
        return {"anyOf": [handler(core), *map(dict, self.shapes)]}


NAME_SCHEMA: Final = {"type": "string", "pattern": NAME_PATTERN}
OR_NULL: Final = Also(({"type": "null"},))
Name = Annotated[str, BeforeValidator(_name), WithJsonSchema(NAME_SCHEMA)]
Text = Annotated[str, BeforeValidator(_text)]
Size = Annotated[
    int,
    BeforeValidator(_size),
    Bytes(),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "examples": ["256 MiB", "10 GiB"]}),
]
Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "5m"]},
                {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_SECONDS},
            ]
        }
    ),
]
Whole = Annotated[int, BeforeValidator(_whole)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Prose = Annotated[str, BeforeValidator(_prose)]
Argv = Annotated[
    list[str],
    BeforeValidator(_argv),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": _COMMAND_PATTERN,
                },
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": MAX_WORD},
                    "minItems": 1,
                    "maxItems": MAX_ENTRIES,
                },
            ]
        }
    ),
]

_Item = TypeVar("_Item")
OrEmpty = Annotated[_Item, BeforeValidator(to_empty), OR_NULL]

OrServed = Annotated[_Item | None, BeforeValidator(_served), Also(({"type": "boolean"},))]

Values = Annotated[
    dict[str, list[str]],
    BeforeValidator(_values),
    Field(max_length=MAX_ENTRIES),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_ENTRIES,
            "additionalProperties": {
                "anyOf": [
                    {"type": ["string", "integer"]},
                    {"type": "array", "items": {"type": ["string", "integer"]}},
                ]
            },
        }
    ),
]
