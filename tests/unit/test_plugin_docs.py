"""docs/plugins.md says what the code does: manifests, names of files and variables, the SDK."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labd.cli import plugin_new
from labd.features.plugins.manifest import SCOPES, read
from labd.features.plugins.settings import _PARSERS
from labd.plugin import Client, Event, Plugin, files

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text()
MANIFESTS = [text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "name =" in text]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
VARIABLES = (getattr(files, name) for name in dir(files) if name.startswith("ENV_"))
FILES = (files.TOKEN, files.PASSWORD, files.SETTINGS, files.HEADER, files.SUBSCRIBER)


@pytest.mark.parametrize("text", MANIFESTS)
def test_its_manifests_are_read(tmp_path: Path, text: str) -> None:
    name = text.split('"')[1]
    folder = tmp_path / name
    folder.mkdir()
    (folder / "plugin.py").touch()
    (folder / "plugin.toml").write_text(text)
    assert read(folder).name == name


def test_it_shows_a_manifest_in_python_and_one_in_shell() -> None:
    assert len(MANIFESTS) == 2


@pytest.mark.parametrize("text", SNIPPETS)
def test_its_python_runs_up_to_the_start(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABD_PLUGIN_NAME", raising=False)
    names: dict[str, object] = {}
    with pytest.raises(SystemExit, match="a plugin is started by labd"):
        exec(compile(text, "docs/plugins.md", "exec"), names)
    assert isinstance(names["plugin"], Plugin)
    assert names["Client"] is Client
    assert names["Event"] is Event


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_every_variable_is_told(name: str) -> None:
    short = name.removeprefix("LABD_MQTT")  # `LABD_MQTT_HOST`, `_PORT`, `_USER`
    assert f"`{name}`" in PAGE or f"`{short}`" in PAGE


@pytest.mark.parametrize("name", [*FILES, files.CURSOR])
def test_every_file_is_told(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("word", sorted([*SCOPES, *_PARSERS]))
def test_every_scope_and_type_is_told(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_what_a_new_plugin_is_made_of_is_read(tmp_path: Path) -> None:
    written = plugin_new.write("greeter", str(tmp_path))
    assert written == [f"{tmp_path}/greeter/plugin.toml", f"{tmp_path}/greeter/plugin.py"]
    found = read(tmp_path / "greeter")
    assert found.check_settings({}) == {"greeting": "Hello"}
    assert (tmp_path / "greeter" / "plugin.py").stat().st_mode & 0o400
