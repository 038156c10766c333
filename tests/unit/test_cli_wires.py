"""`lab link` and `lab capture` against the real API with the fake engine behind it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from labd.features.links.views import LinkChange
from tests.unit.cli_runner import Cli


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab("up", lab.web)
    return lab


def test_wires_are_shown_and_changed(lab: Cli) -> None:
    shown = lab("link", "show", "web").splitlines()
    assert shown[0].split() == ["LINK", "FROM", "TO", "CARRIER", "IMPAIRMENT", "CHANGED"]
    assert shown[1].split() == [
        "lan",
        "a/eth0",
        "-",
        "up",
        "rate",
        "10mbit,",
        "loss",
        "1.5%",
        "yes",
    ]
    asked = ("--from", "a", "--rate", "5mbit", "--delay", "20ms", "--loss", "0")
    lab("link", "set", "web", "lan", *asked)
    lab("link", "set", "web", "a/eth0", "--down")
    lab("link", "reset", "web")
    assert lab.server.engine.links.asked == [
        (
            "web",
            LinkChange(
                target="lan", sender="a", fields={"rate": 5_000_000, "delay": 0.02, "loss": 0}
            ),
        ),
        ("web", LinkChange(target="a/eth0", down=True)),
        ("web", ""),
    ]
    [wire] = json.loads(lab("--json", "link", "set", "web", "a/eth0", "--up"))["wires"]
    assert (wire["nic"], wire["rate"], wire["down"]) == ("eth0", 10_000_000, False)


def test_a_capture_ends_by_count(lab: Cli, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    path = tmp_path / "x"
    _, said = lab.both("capture", "web/a/eth0", "-w", str(path), "--count", "1")
    assert said == f"1 packet in {path}, 0 dropped\n"
    assert path.read_bytes() == b"headpackettail"
    told = json.loads(lab("--json", "capture", "web", "lan", "-w", str(path), "--count", "1"))
    assert told == {"file": str(path), "packets": 1, "dropped": 0, "reason": "count"}
    assert signal.getsignal(signal.SIGINT) is before
    assert all(capture.closed for capture in lab.server.engine.captures.made)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (
            ("link", "set", "web", "lan"),
            2,
            "say what to change: --down, --up, --rate, --delay, --loss…",
        ),
        (
            ("link", "set", "web", "lan", "--loss", "200%"),
            2,
            "loss must be 0% to 100%, not 200%",
        ),
        (
            ("link", "set", "web", "lan", "--jitter", "5"),
            2,
            "jitter '5' is not valid: write it like 20ms or 1.5s",
        ),
        (
            ("link", "set", "web", "lan", "--from", "a", "--up"),
            2,
            "a carrier is lost at every end: leave --from out, or name NODE/NIC",
        ),
        (("link", "set", "web", "wan", "--up"), 4, "there is no link or network wan"),
        (("link", "show", "wab"), 4, "there is no lab wab"),
        (("capture", "web", "wan", "-w", "/dev/null"), 4, "there is no link or network wan"),
        (
            ("capture", "web", "lan", "-w", "/nowhere/x"),
            2,
            "cannot write /nowhere/x: No such file or directory; choose another -w",
        ),
        (
            ("capture", "web", "lan", "-w", "/dev/null", "--filter", "bad"),
            2,
            "filter 'bad': syntax error; see pcap-filter(7)",
        ),
        (
            ("capture", "web", "-w", "/dev/null"),
            2,
            ("name a link or network (lab capture web lan) or a NIC (lab capture web/server/eth0)"),
        ),
    ],
)
def test_bad_usage(lab: Cli, args: tuple[str, ...], status: int, message: str) -> None:
    assert lab(*args, expect=status) == f"lab: {message}\n"
    assert lab.server.engine.links.asked == []
