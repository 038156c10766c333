"""Leases by the real clocks of the host, on real machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from labd.host.failpoints import VARIABLE
from tests.system.harness import TEMPLATES, Daemon, Json, until

BOOT = str(TEMPLATES / "bootsector.yaml")


def told(daemon: Daemon, lab: str = "b") -> list[Json]:
    return [
        event
        for event in daemon.events()
        if event.get("lab") == lab and event["type"].startswith("io.labd.lab.lease")
    ]


def kinds(daemon: Daemon) -> list[str]:
    return [event["type"].rpartition("lease-")[2] for event in told(daemon)]


def names(daemon: Daemon) -> list[str]:
    return [lab["name"] for lab in daemon.json("ls")["labs"]]


def test_a_lab_ends_with_its_lease(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", BOOT, "--name", "b")
    began = time.monotonic()
    daemon.lab("lease", "set", "b", "6s", "--keep-for", "6s", "--warn", "3s")
    until(lambda: daemon.json("status", "b")["state"] == "stopped", "it is stopped")
    assert time.monotonic() - began >= 6
    assert kinds(daemon) == ["set", "warning", "ended"]
    assert daemon.qemus() == []
    until(lambda: names(daemon) == [], "it is destroyed")
    assert time.monotonic() - began >= 12
    assert daemon.leaks() == []


def test_a_lease_ends_while_the_daemon_is_dead(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", BOOT, "--name", "b", "--lease", "3s", "--keep-for", "1h")
    daemon.kill()
    time.sleep(3)
    assert len(daemon.qemus()) == 1, "it runs on: nobody is there to stop it"
    daemon.start()
    until(lambda: daemon.json("status", "b")["state"] == "stopped", "it is stopped")
    assert daemon.json("lease", "show", "b")["stage"] == "ended"
    daemon.lab("lease", "extend", "b", "1h")
    daemon.lab("start", "b")
    assert daemon.json("lease", "show", "b")["stage"] == "running"
    daemon.kill()
    daemon.start()
    left = daemon.json("lease", "show", "b")["left"]
    assert 3500 < left <= 3600
    assert daemon.json("status", "b")["state"] == "running"


def test_a_lease_in_the_past_makes_nothing(daemon: Daemon) -> None:
    daemon.image("bootsector")
    said = daemon.lab("up", BOOT, "--lease", "2020-01-01T00:00:00Z", expect=2)
    assert said == (
        "lab: the lease would have ended at 2020-01-01T00:00:00Z, which is in the past\n"
    )
    assert names(daemon) == []


def test_a_lease_ends_after_a_fault_of_labd(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(start=False)
    orders = tmp_path / "orders"
    orders.touch()
    daemon.environment[VARIABLE] = str(orders)
    daemon.faulty = True
    daemon.start()
    daemon.image("bootsector")
    daemon.lab("up", BOOT, "--name", "b", "--lease", "5s", "--keep-for", "1h")
    broken = tmp_path / "broken"
    broken.write_text("clock.wall = offset nonsense\n")  # which no clock expects: ValueError
    broken.replace(orders)
    until(lambda: "task leases met a fault of labd" in daemon.log.read_text(), "it has failed")
    sound = tmp_path / "sound"
    sound.touch()
    sound.replace(orders)
    until(lambda: daemon.json("status", "b")["state"] == "stopped", "it is stopped")

    def failures() -> list[Json]:
        return [e["data"] for e in daemon.events() if e["type"] == "io.labd.host.task-failed"]

    until(lambda: "leases" in [data["task"] for data in failures()], "it is told")
    findings = json.loads(daemon.run("--json", "doctor").stdout)["findings"]
    texts = [item["text"] for item in findings if item["name"] == "tasks"]
    assert any(text.startswith("leases has failed") and "ValueError" in text for text in texts)
    assert "Traceback" in daemon.log.read_text()
