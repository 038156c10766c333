"""Plugins of a whole labd, as the tests see them: their folders, secrets and processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.system.harness import Daemon, processes, until

TEMPLATE = "lab-templates/bootsector.yaml"


def with_plugins(make: Callable[..., Daemon], closed: Path, manifests: dict[str, str]) -> Daemon:
    """Return a daemon that knows some plugins, in a new folder that only root can enter."""
    closed.mkdir(mode=0o700)
    for name, manifest in manifests.items():
        (closed / name).mkdir()
        (closed / name / "plugin.toml").write_text(manifest)
    daemon = make(f'[plugins]\ndirs = ["{closed}"]\n')
    daemon.image("bootsector")
    return daemon


def folder(daemon: Daemon, name: str) -> Path:
    """Return a plugin's own folder."""
    return daemon.root / "lib" / "plugins" / name


def secret(daemon: Daemon, name: str, file: str = "token") -> str:
    """Return what a plugin was given."""
    return (folder(daemon, name) / file).read_text().strip()


def pids(daemon: Daemon, name: str) -> list[int]:
    """Return the processes of a plugin, by their environment."""
    mark = f"LABD_PLUGIN_STATE={folder(daemon, name)}".encode()
    found = []
    for pid in processes():
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def enable(daemon: Daemon, name: str, *settings: str) -> int:
    """Enable a plugin and return its process, once that has become what it is to be."""
    options = [word for setting in settings for word in ("--set", setting)]
    daemon.lab("plugin", "enable", name, *options)
    until(lambda: len(pids(daemon, name)) == 1, f"{name} runs")
    return pids(daemon, name)[0]


def hears(daemon: Daemon, name: str) -> None:
    """Wait until a plugin in Python has begun to hear."""
    until(lambda: "hears events after" in daemon.lab("plugin", "logs", name), f"{name} hears")
