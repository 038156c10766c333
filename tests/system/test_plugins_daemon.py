"""Plugins of a whole labd: they end with it, come back with it, and miss nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.harness import Daemon, Json, cmdline, is_alive, processes, until

SHELL = 'sleep 3000 &\necho child $!\necho "${LABD_PLUGIN_NAME} of $PPID"\nwait\n'


def recorded(root: Path) -> list[Json]:
    """Return what the recorder has written, by seq."""
    folder = root / "lib" / "plugins" / "recorder"
    found = []
    for path in [*folder.glob("*.jsonl"), *folder.glob("labs/*.jsonl")]:
        found += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return sorted(found, key=lambda event: int(event["seq"]))


def has_all(daemon: Daemon, first: int) -> Callable[[], bool]:
    """Return whether the recorder has written every event of labd once, from `first` on."""

    def check() -> bool:
        events = daemon.events(first - 1)
        return recorded(daemon.root) == events and events[0]["seq"] == first

    return check


@pytest.fixture
def with_shell(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    folder = tmp_path / "plugins" / "parent"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text('name = "parent"\ncommand = ["sh", "plugin.sh"]\n')
    (folder / "plugin.sh").write_text(SHELL)
    return make_daemon(f'[plugins]\ndirs = ["{folder.parent}"]\n')


def plugin_processes(daemon: Daemon) -> list[int]:
    """Return the Python plugins that the daemon runs."""
    assert daemon.process is not None
    parent = str(daemon.process.pid).encode()
    return [
        pid
        for pid in processes()
        if b"labd.plugin.launch" in (words := cmdline(pid).split(b"\0")) and parent in words
    ]


def test_plugins_end_and_begin_with_the_daemon_and_miss_nothing(with_shell: Daemon) -> None:
    daemon = with_shell
    daemon.image("bootsector")
    daemon.lab("plugin", "enable", "recorder")
    daemon.lab("plugin", "enable", "parent")
    until(lambda: "hears events" in daemon.lab("plugin", "logs", "recorder"), "it hears")
    started = [e["seq"] for e in daemon.events() if e["type"] == "io.labd.plugin.started"]
    log = daemon.lab("plugin", "logs", "recorder")
    first = int(log.partition("hears events after ")[2].split()[0]) + 1
    assert started
    daemon.lab("up", "lab-templates/bootsector.yaml", "--name", "boot")
    until(has_all(daemon, first), "the recorder has all", 20)

    until(lambda: "child" in daemon.lab("plugin", "logs", "parent"), "the child runs")
    child = int(daemon.lab("plugin", "logs", "parent").split()[1])
    (recorder,) = plugin_processes(daemon)
    assert is_alive(child)
    daemon.kill()
    until(lambda: not is_alive(recorder), "the plugin ends with the daemon", 5)
    daemon.start()
    until(lambda: not is_alive(child), "what a plugin had started ends at its next start", 10)
    (machine,) = daemon.pids("boot").values()
    assert is_alive(machine)
    daemon.lab("destroy", "boot", "--force")
    until(has_all(daemon, first), "the recorder has all, also of the time without it", 20)

    states = {p["name"]: p["state"] for p in daemon.json("plugin", "ls")["plugins"]}
    assert states == {
        "idle": "disabled",
        "parent": "running",
        "recorder": "running",
        "watchdog": "disabled",
        "webhook": "disabled",
    }
    daemon.lab("plugin", "disable", "recorder")
    assert plugin_processes(daemon) == []


def test_a_crashing_plugin_harms_nothing_and_is_told(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    folder = tmp_path / "plugins" / "falls"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text('name = "falls"\n')
    (folder / "plugin.py").write_text("raise SystemExit(3)\n")
    daemon = make_daemon(f'[plugins]\ndirs = ["{folder.parent}"]\n')
    daemon.lab("plugin", "enable", "falls")

    def crashes() -> list[Json]:
        return [e for e in daemon.events() if e["type"] == "io.labd.plugin.crashed"]

    until(lambda: len(crashes()) >= 2, "it is started again", 20)
    assert {event["subject"] for event in crashes()} == {"falls"}
    assert crashes()[0]["data"] == {
        "status": 3,
        "reason": "its process ended with exit status 3",
    }
    daemon.image("bootsector")
    daemon.lab("up", "lab-templates/bootsector.yaml", "--name", "boot")
    assert set(daemon.states("boot").values()) == {"ready"}
    wrong = daemon.lab("plugin", "enable", "webhook", "--set", "url=gopher://x", expect=2)
    assert "setting url: must be an http or https URL" in wrong
    states = {p["name"]: p["state"] for p in daemon.json("plugin", "ls")["plugins"]}
    assert states["falls"] in {"running", "backoff"}
    assert states["webhook"] == "disabled"
