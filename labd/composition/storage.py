"""The drivers of storage, and the classes that labd.toml makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from labd.drivers.storage.classes import StorageClasses
from labd.drivers.storage.local.disks import LocalStorage
from labd.drivers.storage.port import Storage
from labd.host.config_storage import StorageClass, StorageConfig
from labd.host.doctor import Finding, Level
from labd.model.disks import LOCAL
from labd.model.errors import ConfigError
from labd.model.names import did_you_mean

# A driver is a folder in `labd/drivers/storage`, and a line here: (class, state folder) -> it.
DRIVERS: Mapping[str, Callable[[StorageClass, Path], Storage]] = {
    "local": lambda wanted, state: LocalStorage(state, wanted.path, wanted.name),
}


def storage_of(config: StorageConfig, state: Path) -> Storage:
    """Return the storage of a daemon: all its classes as one.

    Raises:
        ConfigError: A class has no such driver, or cannot be used.
    """
    for problem in problems(config):
        raise ConfigError(problem)
    classes: dict[str, Storage] = {LOCAL: LocalStorage(state)}
    for wanted in config.classes:
        classes[wanted.name] = DRIVERS[wanted.driver](wanted, state)
    return StorageClasses(classes)


def problems(config: StorageConfig) -> Iterator[str]:
    """Yield why storage classes cannot be used, a line each. Blocks briefly."""
    for wanted in config.classes:
        where = f"storage class {wanted.name}"
        if wanted.driver not in DRIVERS:
            hint = did_you_mean(wanted.driver, DRIVERS)
            yield f"{where}: there is no storage driver {wanted.driver!r}{hint}"
        elif not wanted.path.is_dir():
            yield f"{where}: {wanted.path} is no folder: make it, or mount what shall be there"
        elif not os.access(wanted.path, os.W_OK | os.X_OK):
            yield f"{where}: {wanted.path} cannot be written: run labd as root, or mount it so"


def findings(config: StorageConfig) -> Iterator[Finding]:
    """Yield what the doctor says of the classes besides `local`. Blocks briefly."""
    found = list(problems(config))
    for problem in found:
        text, _, advice = problem.rpartition(": ")
        yield Finding(name="storage", level=Level.FAIL, text=text, advice=advice)
    if config.classes and not found:
        names = ", ".join(item.name for item in config.classes)
        yield Finding(name="storage", level=Level.OK, text=f"storage classes: {names}")
