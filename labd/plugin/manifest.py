"""`plugin.toml`: what a plugin is, what it hears, what it may do, and its settings.

name = "greeter"
version = "1.0.0"
description = "Says hello"
command = ["python", "plugin.py"]     # the default; any program in the folder will do
events = ["node.*"]
scopes = ["labs:read", "labs:control", "events:read"]

[settings.greeting]
type = "string"                       # string, integer, number, boolean, duration, strings
default = "Hello"                     # left out: it must be given
description = "What is said"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labd.model.errors import ConfigError, InputError
from labd.model.names import did_you_mean, is_name
from labd.model.units import parse_duration

FILE = "plugin.toml"
SCOPES = frozenset(
    {
        "labs:read",
        "labs:control",
        "labs:console",
        "events:read",
        "images:read",
        "images:write",
        "host:read",
    }
)
_KEYS = ("name", "version", "description", "command", "events", "scopes", "settings")
_SETTING_KEYS = ("type", "default", "description", "choices")
_PATTERN = re.compile(r"[a-z*][a-z.*-]{0,63}\Z")
_JSON_TYPES: Mapping[str, Mapping[str, object]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "duration": {"type": "string", "description": "like 30s or 5m"},
    "strings": {"type": "array", "items": {"type": "string"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `default` is None when it must be given."""

    type: str = "string"
    default: object = None
    description: str = ""
    choices: tuple[str, ...] = ()

    def value(self, given: object) -> object:
        """Return the value that was given, as JSON has it or as text from a command line.

        Raises:
            InputError: It is not of the type.
        """
        value = _PARSERS[self.type](given)
        if self.choices and value not in self.choices:
            raise InputError(f"must be one of {', '.join(self.choices)}")
        return value


def _string(given: object) -> object:
    if not isinstance(given, str):
        raise InputError("must be text")
    return given


def _integer(given: object) -> object:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and re.fullmatch(r"-?\d{1,18}", given):
        return int(given)
    raise InputError("must be a whole number")


def _number(given: object) -> object:
    if isinstance(given, int | float) and not isinstance(given, bool):
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
    if isinstance(given, int | float) and not isinstance(given, bool):
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


_PARSERS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "duration": _duration,
    "strings": _strings,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A plugin as its folder describes it."""

    name: str
    folder: Path
    version: str = ""
    description: str = ""
    command: tuple[str, ...] = ("python", "plugin.py")
    events: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def is_python(self) -> bool:
        """Tell whether it runs in labd's own interpreter."""
        return self.command[0] == "python"

    def settings_schema(self) -> dict[str, object]:
        """Return the settings as JSON Schema."""
        properties: dict[str, object] = {}
        for name, setting in self.settings.items():
            entry: dict[str, object] = dict(_JSON_TYPES[setting.type])
            if setting.description:
                entry["description"] = setting.description
            if setting.choices:
                entry["enum"] = list(setting.choices)
            if setting.default is not None:
                entry["default"] = setting.default
            properties[name] = entry
        return {
            "type": "object",
            "properties": properties,
            "required": [n for n, s in self.settings.items() if s.default is None],
            "additionalProperties": False,
        }

    def check_settings(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the settings with defaults.

        Raises:
            ConfigError: A key is unknown or missing, or a value does not fit.
        """
        for key in given:
            if key not in self.settings:
                raise ConfigError(
                    f"plugin {self.name} has no setting '{key[:64]}'"
                    f"{did_you_mean(key, self.settings)}"
                )
        values = {}
        for name, setting in self.settings.items():
            value = given.get(name, setting.default)
            if value is None:
                raise ConfigError(
                    f"plugin {self.name} needs the setting '{name}': "
                    f"enable it with --set {name}=..."
                )
            try:
                values[name] = setting.value(value)
            except InputError as error:
                raise ConfigError(f"plugin {self.name}: setting {name}: {error.message}") from error
        return values


def read(folder: Path) -> Manifest:
    """Read the manifest of a plugin's folder.

    Raises:
        ConfigError: It cannot be read or is wrong; the message begins with the file.
    """
    path = folder / FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return _manifest(folder, document)
    except InputError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def _manifest(folder: Path, document: Mapping[str, object]) -> Manifest:
    for key in document:
        if key not in _KEYS:
            raise InputError(f"unknown key '{key[:64]}'{did_you_mean(key, _KEYS)}")
    name = document.get("name", "")
    if not is_name(name) or name != folder.name:
        raise InputError(f"name must be that of its folder, {folder.name!r}")
    settings = document.get("settings", {})
    if not isinstance(settings, Mapping):
        raise InputError("settings must be tables, like [settings.url]")
    command = _texts(document.get("command", ["python", "plugin.py"]), "command")
    events = _texts(document.get("events", []), "events")
    scopes = _texts(document.get("scopes", []), "scopes")
    if not command:
        raise InputError("command must name a program")
    for pattern in events:
        if not _PATTERN.match(pattern):
            raise InputError(f"events: '{pattern[:64]}' is no pattern; write it like node.*")
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"unknown scope '{scope[:64]}'{did_you_mean(scope, SCOPES)}")
    return Manifest(
        name=str(name),
        folder=folder,
        version=str(document.get("version", "")),
        description=str(document.get("description", "")),
        command=command,
        events=events,
        scopes=scopes,
        settings={str(key): _setting(str(key), value) for key, value in settings.items()},
    )


def _texts(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f'{key} must be a list of texts, like ["a", "b"]')
    return tuple(value)


def _setting(name: str, entry: object) -> Setting:
    if not isinstance(entry, Mapping):
        raise InputError(f"settings.{name} must be a table")
    for key in entry:
        if key not in _SETTING_KEYS:
            raise InputError(
                f"unknown key '{key[:64]}' in settings.{name}{did_you_mean(key, _SETTING_KEYS)}"
            )
    kind = entry.get("type", "string")
    if kind not in _PARSERS:
        raise InputError(
            f"settings.{name}: unknown type {kind!r}{did_you_mean(str(kind), _PARSERS)}"
        )
    setting = Setting(
        type=str(kind),
        default=entry.get("default"),
        description=str(entry.get("description", "")),
        choices=_texts(entry.get("choices", []), f"settings.{name}.choices"),
    )
    if setting.default is not None:
        try:
            setting.value(setting.default)
        except InputError as error:
            raise InputError(f"settings.{name}: default: {error.message}") from error
    return setting


def discover(folders: Iterable[Path]) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Return the plugins in some folders: manifests by name, and problems by name of the folder.

    The first folder that has a name wins.
    """
    found: dict[str, Manifest] = {}
    problems: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            if not (entry / FILE).is_file() or entry.name in found or entry.name in problems:
                continue
            try:
                found[entry.name] = read(entry)
            except ConfigError as error:
                problems[entry.name] = error.message
    return found, problems
