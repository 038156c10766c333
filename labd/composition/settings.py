"""What the command line and the configuration file come to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from labd.host import config as configuration
from labd.host.config import Config
from labd.host.failpoints import failpoints
from labd.host.logs import set_up as set_up_logs
from labd.host.paths import prepare
from labd.model.errors import ConfigError
from labd.model.paths import Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line and the configuration file came to."""

    paths: Paths
    config: Config
    take_down: bool


def configured(root: Path | None, config_file: Path | None) -> tuple[Paths, Config]:
    """Return the paths below a root, and the configuration; ConfigError names its line."""
    paths = Paths.of(Path(os.path.abspath(root)) if root else None)
    return paths, configuration.load(config_file or paths.config, required=config_file is not None)


def settings_of(root: Path | None, config_file: Path | None, *, take_down: bool) -> Settings:
    """Return the settings of a daemon, with its folders made and its log set up.

    Raises:
        ConfigError: The configuration is wrong, or the caller is not root.
    """
    paths, config = configured(root, config_file)
    set_up_logs(config.daemon.log_level, config.daemon.log_format)
    if os.geteuid() != 0:
        raise ConfigError("labd makes namespaces, taps and users' processes: run it as root")
    prepare(paths)
    failpoints.arm(os.environ)
    return Settings(paths=paths, config=config, take_down=take_down)
