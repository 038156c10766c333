"""plugin.toml: what is read, and where and how each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.features.plugins.manifest import discover, read
from labd.model.errors import ConfigError

HEAD = 'name = "greeter"\n'
NO_DURATION = "plugin greeter: setting wait: must be a duration, like 30s or 5m"
FULL = """\
name = "greeter"
version = "1.2.0"
description = "Says hello"
events = ["node.*", "lab.state", "*"]
scopes = ["labs:read", "events:read"]

[settings.word]
default = "Hello"
choices = ["Hello", "Salut"]

[settings.times]
type = "integer"
minimum = 1
maximum = 9

[settings.wait]
type = "duration"
default = "90s"
"""


def installed(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "greeter"
    folder.mkdir()
    (folder / "plugin.toml").write_text(text)
    (folder / "plugin.py").touch()
    return folder


def test_a_manifest_is_read(tmp_path: Path) -> None:
    found = read(installed(tmp_path, FULL))
    assert (found.name, found.version, found.description) == ("greeter", "1.2.0", "Says hello")
    assert found.events == ("node.*", "lab.state", "*")
    assert found.scopes == ("labs:read", "events:read")
    assert found.command == ("python", "plugin.py")
    assert found.is_python
    assert found.settings_schema() == {
        "type": "object",
        "properties": {
            "word": {"type": "string", "enum": ["Hello", "Salut"], "default": "Hello"},
            "times": {"type": "integer", "minimum": 1, "maximum": 9},
            "wait": {
                "type": ["string", "number"],
                "description": "like 30s or 5m",
                "default": "90s",
            },
        },
        "required": ["times"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"times": "3"}, {"word": "Hello", "times": 3, "wait": 90.0}),
        (
            {"times": 9, "word": "Salut", "wait": "1h30m"},
            {"word": "Salut", "times": 9, "wait": 5400.0},
        ),
        ({"times": 1, "wait": 2.5}, {"word": "Hello", "times": 1, "wait": 2.5}),
    ],
)
def test_settings_get_their_defaults(
    tmp_path: Path, given: dict[str, object], values: dict[str, object]
) -> None:
    assert read(installed(tmp_path, FULL)).check_settings(given) == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "plugin greeter needs the setting 'times': enable it with --set times=..."),
        ({"tims": 1}, "plugin greeter has no setting 'tims'; did you mean 'times'?"),
        ({"times": "many"}, "plugin greeter: setting times: must be a whole number"),
        ({"times": True}, "plugin greeter: setting times: must be a whole number"),
        ({"times": 0}, "plugin greeter: setting times: must be at least 1"),
        ({"times": 10}, "plugin greeter: setting times: must be at most 9"),
        (
            {"times": 1, "word": "Hi"},
            "plugin greeter: setting word: must be one of Hello, Salut",
        ),
        (
            {"times": 1, "word": 5},
            (
                "plugin greeter: setting word: must be text; "
                "put what looks like a number into double quotes"
            ),
        ),
        ({"times": 10**400}, "plugin greeter: setting times: must be a whole number"),
        ({"times": 1, "wait": -1}, NO_DURATION),
        ({"times": 1, "wait": float("nan")}, NO_DURATION),
        ({"times": 1, "wait": float("inf")}, NO_DURATION),
        ({"times": 1, "wait": 10**400}, NO_DURATION),
        ({"times": 1, "wait": True}, NO_DURATION),
        ({"times": 1, "wait": []}, NO_DURATION),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(installed(tmp_path, FULL)).check_settings(given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            HEAD + "x = = 1\n",
            2,
            "not valid TOML: Invalid value (at line 2, column 5)",
        ),
        (
            HEAD + 'name = "greeter"\n',
            2,
            "not valid TOML: Cannot overwrite a value (at line 2, column 17)",
        ),
        (HEAD + 'descripton = ""\n', 2, "unknown key 'descripton'; did you mean 'description'?"),
        (HEAD + "\n[setings.x]\n", 3, "unknown key 'setings'; did you mean 'settings'?"),
        ("", 1, "name must be that of its folder, 'greeter'"),
        ('\nname = "other"\n', 2, "name must be that of its folder, 'greeter'"),
        ("name = 5\n", 1, "name must be that of its folder, 'greeter'"),
        (HEAD + "version = 1.0\n", 2, 'version must be text, like "1.0"'),
        (HEAD + "settings = 5\n", 2, "settings must be tables, like [settings.url]"),
        (HEAD + 'events = "node.*"\n', 2, 'events must be a list of texts, like ["a", "b"]'),
        (
            HEAD + '\nevents = ["node crashed"]\n',
            3,
            "events: 'node crashed' is no pattern; write it like node.*",
        ),
        (
            HEAD + 'scopes = ["lab:read"]\n',
            2,
            "unknown scope 'lab:read'; did you mean 'labs:read'?",
        ),
        (
            HEAD + 'scopes = ["plugins:admin"]\n',
            2,
            (
                "unknown scope 'plugins:admin'; known: events:read, host:read, images:read, "
                "images:write, labs:console, labs:control, labs:read"
            ),
        ),
        (HEAD + "command = []\n", 2, "command must name a program"),
        (HEAD + 'command = ["bash", ""]\n', 2, "command must name a program"),
        (HEAD + 'command = "run"\n', 2, 'command must be a list of texts, like ["a", "b"]'),
        (HEAD + 'command = ["python"]\n', 2, "command: there is no file '' in {folder}"),
        (
            HEAD + 'command = ["python", "main.py"]\n',
            2,
            "command: there is no file 'main.py' in {folder}",
        ),
        (
            HEAD + 'command = ["python", "../greeter/plugin.py"]\n',
            2,
            "command: there is no file '../greeter/plugin.py' in {folder}",
        ),
        (
            HEAD + 'command = ["/bin/sh"]\n',
            2,
            "command: there is no file '/bin/sh' in {folder}",
        ),
        (
            HEAD + "[settings]\nurl = 5\n",
            3,
            "settings.url must be a table, like [settings.url]",
        ),
        (
            HEAD + "[settings.Url]\n",
            2,
            "setting name 'Url': use a-z, 0-9 and '-'",
        ),
        (
            HEAD + '[settings.url]\ndefault = ""\n[settings.wait]\ntyp = "duration"\n',
            5,
            "unknown key 'typ' in settings.wait; did you mean 'type'?",
        ),
        (
            HEAD + '[settings.wait]\ntype = "durations"\n',
            3,
            "settings.wait: unknown type 'durations'; did you mean 'duration'?",
        ),
        (
            HEAD + "[settings.wait]\ntype = []\n",
            3,
            "settings.wait: type must be text, such as string",
        ),
        (
            HEAD + '[settings.n]\ntype = "integer"\ndefault = "x"\n',
            4,
            "settings.n: default must be a whole number",
        ),
        (
            HEAD + '[settings.n]\ntype = "integer"\nminimum = "x"\n',
            4,
            "settings.n: minimum must be a number",
        ),
        (
            HEAD + "[settings.n]\nmaximum = 3\n",
            3,
            "settings.n: maximum is for integer, number and duration",
        ),
        (
            HEAD + "[settings.n]\nchoices = [1]\n",
            3,
            'choices must be a list of texts, like ["a", "b"]',
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    folder = installed(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(folder)
    assert str(caught.value) == f"{folder}/plugin.toml:{line}: " + message.format(folder=folder)


def test_unreadable_manifests_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugin\.toml: cannot be read: .*No such file"):
        read(tmp_path / "nothing")
    folder = installed(tmp_path, "")
    (folder / "plugin.toml").write_bytes(b"name = \xff")
    with pytest.raises(ConfigError, match=r"plugin\.toml: cannot be read: .*codec can't decode"):
        read(folder)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://example.org/hook?x=1", True),
        ("http://[::1]:8080/", True),
        ("ftp://example.org/", False),
        ("https://", False),
        ("http://h:99999/", False),
        ("http://h/ x", False),
        ("http://h/\nX: y", False),
        ("http://[::1/", False),
        (5, False),
    ],
)
def test_urls(tmp_path: Path, url: object, good: bool) -> None:
    found = read(installed(tmp_path, HEAD + '[settings.url]\ntype = "url"\n'))
    if good:
        assert found.check_settings({"url": url}) == {"url": url}
        return
    with pytest.raises(ConfigError, match="must be an http or https URL, like"):
        found.check_settings({"url": url})


def test_the_first_folder_wins_and_problems_are_kept_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for folder, version in ((first, "1"), (second, "2")):
        folder.mkdir()
        installed(folder, f'{HEAD}version = "{version}"\n')
    broken = second / "broken"
    broken.mkdir()
    (broken / "plugin.toml").write_text("name = 5")
    (second / "no-plugin").mkdir()
    found, problems = discover([first, tmp_path / "missing", second])
    assert {name: manifest.version for name, manifest in found.items()} == {"greeter": "1"}
    assert problems == {
        "broken": f"{broken}/plugin.toml:1: name must be that of its folder, 'broken'"
    }


def test_the_shipped_plugins_are_in_order() -> None:
    found, problems = discover([Path(__file__).resolve().parents[2] / "plugins"])
    assert problems == {}
    assert {"watchdog", "idle", "webhook", "recorder"} <= set(found)
    for manifest in found.values():
        assert (manifest.folder / "README.md").is_file()
        assert manifest.description
        assert "events:read" in manifest.scopes
