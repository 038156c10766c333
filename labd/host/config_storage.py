"""Section `[storage]` of labd.toml: where disks of machines may lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from labd.host import config_values as values
from labd.model.disks import LOCAL
from labd.model.errors import InputError
from labd.model.names import check_name, did_you_mean

_KEYS = ("driver", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    """Section `[storage.NAME]`.

    Attributes:
        name: By which disks name it.
        driver: Which of the drivers of storage.
        path: Folder of the driver `local`.
    """

    name: str
    driver: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """Section `[storage]`.

    Attributes:
        default: Class of disks that are new.
        classes: Those besides `local`, which is in the state folder.
    """

    default: str = LOCAL
    classes: tuple[StorageClass, ...] = ()


Fail = Callable[[str, str, str], NoReturn]


def read(given: Mapping[str, Any], fail: Fail) -> StorageConfig:
    """Return the section; `fail` is called with section, key and what is wrong."""
    classes = []
    for name, entries in given.items():
        if name == "default":
            continue
        section = f"storage.{name}"
        if not isinstance(entries, dict):
            fail("storage", name, f"unknown key '{name}': a class is a section, [{section}]")
        classes.append(_class(name, section, entries, fail))
    known = [LOCAL, *(item.name for item in classes)]
    default = given.get("default", LOCAL)
    if default not in known:
        shown = values.shown(default)
        hint = did_you_mean(default, known) if isinstance(default, str) else ""
        fail("storage", "default", f"default = {shown}: there is no such storage class{hint}")
    return StorageConfig(default=default, classes=tuple(classes))


def _class(name: str, section: str, entries: Mapping[str, Any], fail: Fail) -> StorageClass:
    try:
        check_name(name, "storage class")
    except InputError as error:
        fail(section, "", error.message)
    if name == LOCAL:
        fail(section, "", "the class local is the state folder: give this one another name")
    for key in entries:
        if key not in _KEYS:
            fail(section, key, f"unknown key '{key}'{did_you_mean(key, _KEYS)}")
    for key in _KEYS:
        if key not in entries:
            fail(section, "", f"storage class {name} has no {key}: write one")
    try:
        path = values.absolute(entries["path"])
        driver = values.text(entries["driver"])
    except ValueError as error:
        fail(section, "", f"storage class {name}: {error}")
    return StorageClass(name=name, driver=driver, path=path)
