"""Section `[storage]` of labd.toml, and what labd and its doctor say of classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.composition.storage import findings, storage_of
from labd.host.config import parse
from labd.host.doctor import Level
from labd.model.errors import ConfigError

FAST = '[storage.fast]\ndriver = "local"\npath = "/srv/fast"\n'


def test_without_a_section_there_is_the_class_local() -> None:
    assert parse("").storage.default == "local"
    assert parse("").storage.classes == ()


def test_a_class_can_be_that_of_new_disks() -> None:
    found = parse(f'[storage]\ndefault = "fast"\n{FAST}').storage
    assert found.default == "fast"
    (fast,) = found.classes
    assert (fast.name, fast.driver, fast.path) == ("fast", "local", Path("/srv/fast"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[storage]\ndefault = "fats"\n' + FAST, "labd.toml:2: .*no such storage class.*fast"),
        ("[storage]\ndefault = 3\n", "default = 3: there is no such storage class"),
        ("[storage]\nfast = 3\n", r"unknown key 'fast': a class is a section, \[storage.fast\]"),
        (FAST + "size = 3\n", "labd.toml:4: unknown key 'size'"),
        ('[storage.fast]\ndriver = "local"\n', "labd.toml:1: storage class fast has no path"),
        ('[storage.fast]\npath = "/x"\n', "storage class fast has no driver"),
        (FAST.replace("/srv", "srv"), "storage class fast: .*absolute"),
        (FAST.replace(".fast", ".local"), "the class local is the state folder"),
    ],
)
def test_what_is_wrong_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("driver", "folder", "says"),
    [
        ("locla", "", "there is no storage driver 'locla'.*local"),
        ("local", "none", "none is no folder: make it"),
    ],
)
def test_a_class_that_cannot_be_used_is_told(
    tmp_path: Path, driver: str, folder: str, says: str
) -> None:
    text = f'[storage.fast]\ndriver = "{driver}"\npath = "{tmp_path / folder}"\n'
    config = parse(text).storage
    with pytest.raises(ConfigError, match=f"storage class fast: .*{says}"):
        storage_of(config, tmp_path)
    (found,) = findings(config)
    assert (found.name, found.level) == ("storage", Level.FAIL)


def test_the_doctor_names_the_classes_that_can_be_used(tmp_path: Path) -> None:
    config = parse(f'[storage.fast]\ndriver = "local"\npath = "{tmp_path}"\n').storage
    assert [(item.level, item.text) for item in findings(config)] == [
        (Level.OK, "storage classes: fast")
    ]
    assert list(findings(parse("").storage)) == []
