"""`plugin.toml`: what a plugin is, what it hears, what it may do, and its settings.

    name = "greeter"
    version = "1.0.0"
    description = "Says hello"
    command = ["python", "plugin.py"]  # the default; or a program, such as ["bash", "plugin.sh"]
    events = ["node.*"]
    scopes = ["labs:read", "labs:control", "events:read"]

    [settings.greeting]
    type = "string"
    default = "Hello"                  # left out: it must be given
    description = "What is said"

A word of `command` that is a file of the plugin's folder is that file; `python` is labd's own
interpreter, with `labd.plugin` to import. `settings.py` tells the types of settings.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from labd.features.plugins.settings import Misplaced, Setting, read_setting, texts
from labd.model.errors import ConfigError, InputError
from labd.model.names import did_you_mean, is_name

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
_PATTERN = re.compile(r"[a-z*][a-z.*-]{0,63}\Z")


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
        """True if it runs in labd's own interpreter."""
        return self.command[0] == "python"

    def has_file(self, word: str) -> bool:
        """True if a word of the command is a file of the plugin's folder."""
        return is_inside(word) and (self.folder / word).is_file()

    def settings_schema(self) -> dict[str, object]:
        """Return the settings as JSON Schema."""
        return {
            "type": "object",
            "properties": {name: setting.schema() for name, setting in self.settings.items()},
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


def is_inside(word: str) -> bool:
    """True if a path stays in the folder that it is relative to."""
    path = PurePosixPath(word)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def read(folder: Path) -> Manifest:
    """Read the manifest of a plugin's folder.

    Raises:
        ConfigError: It cannot be read or is wrong; the message begins with file:line.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return _manifest(folder, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        number = place[1] if place else len(text.splitlines())
        raise ConfigError(f"{path}:{number}: not valid TOML: {error}") from error
    except Misplaced as error:
        raise ConfigError(f"{path}:{_line(text, error.section, error.key)}: {error}") from error


def _line(text: str, section: str, key: str) -> int:
    """Return where a key stands, else its section, else 1; tomllib does not tell."""
    found, current = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\"'-]+)\s*\]", line):
            current = re.sub(r"[\"']", "", header[1])
            # A table that should not be there is named by its own header.
            if current in {section, key} or current.startswith(f"{key}."):
                found = number
        elif current == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return found


def _manifest(folder: Path, document: Mapping[str, object]) -> Manifest:
    for key in document:
        if key not in _KEYS:
            raise Misplaced("", key, f"unknown key '{key[:64]}'{did_you_mean(key, _KEYS)}")
    name = document.get("name", "")
    if not is_name(name) or name != folder.name:
        raise Misplaced("", "name", f"name must be that of its folder, {folder.name!r}")
    settings = document.get("settings", {})
    if not isinstance(settings, Mapping):
        raise Misplaced("", "settings", "settings must be tables, like [settings.url]")
    return Manifest(
        name=str(name),
        folder=folder,
        version=_text(document, "version"),
        description=_text(document, "description"),
        command=_command(folder, document),
        events=_events(document),
        scopes=_scopes(document),
        settings={str(key): read_setting(str(key), value) for key, value in settings.items()},
    )


def _text(document: Mapping[str, object], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise Misplaced("", key, f'{key} must be text, like "1.0"')
    return value


def _command(folder: Path, document: Mapping[str, object]) -> tuple[str, ...]:
    command = texts(document.get("command", ["python", "plugin.py"]), "", "command")
    if not command or not all(command):
        raise Misplaced("", "command", "command must name a program")
    # Where its code is: behind `python`, or the program itself when it is given as a path.
    program = command[0]
    if program == "python":
        program = command[1] if len(command) > 1 else ""
    elif "/" not in program:
        return command
    if not (is_inside(program) and (folder / program).is_file()):
        raise Misplaced("", "command", f"command: there is no file {program!r} in {folder}")
    return command


def _events(document: Mapping[str, object]) -> tuple[str, ...]:
    events = texts(document.get("events", []), "", "events")
    for pattern in events:
        if not _PATTERN.match(pattern):
            wrong = f"events: '{pattern[:64]}' is no pattern; write it like node.*"
            raise Misplaced("", "events", wrong)
    return events


def _scopes(document: Mapping[str, object]) -> tuple[str, ...]:
    scopes = texts(document.get("scopes", []), "", "scopes")
    for scope in scopes:
        if scope not in SCOPES:
            wrong = f"unknown scope '{scope[:64]}'{did_you_mean(scope, SCOPES)}"
            raise Misplaced("", "scopes", wrong)
    return scopes


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
