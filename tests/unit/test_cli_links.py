"""`lab link` and `lab capture` against the real API over the real engine on fakes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from labd.client import Client
from labd.model.impairment import DECLARED, Impairment, describe, parse
from tests.unit.api_server import openapi
from tests.unit.cli_runner import Cli

NO_WAN = "there is no link or network wan; did you mean 'lan'?"


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab("up", lab.web)
    return lab


def row(lab: Cli, end: str) -> list[str]:
    """Return what `lab link show` says of an end."""
    lines = [line.split() for line in lab("link", "show", "web").splitlines()]
    assert lines[0] == ["LINK", "FROM", "TO", "CARRIER", "IMPAIRMENT", "CHANGED"]
    (found,) = (words for words in lines[1:] if words[1] == end)
    return found


def test_links_are_shown_and_changed(lab: Cli) -> None:
    assert row(lab, "a/eth0") == ["lan", "a/eth0", "b/eth0", "up", "-", "no"]
    lab("link", "set", "web", "a/eth0", "--rate", "10mbit", "--loss", "1.5%")
    assert row(lab, "a/eth0")[3:] == ["up", "rate", "10mbit,", "loss", "1.5%", "yes"]
    changes = ("--rate", "5mbit", "--delay", "20ms", "--loss", "0")
    lab("link", "set", "web", "lan", "--from", "a", *changes)
    lab("link", "set", "web", "a/eth0", "--down")
    daemon = lab.server.daemon
    (shapes,) = daemon.links.shapes.values()
    assert Impairment(rate=5_000_000, delay=0.02) in shapes.values()
    assert daemon.host.machines[lab.server.key("a")].dark == {"n0"}
    assert row(lab, "a/eth0")[3] == "down"
    assert row(lab, "b/eth0") == ["lan", "b/eth0", "a/eth0", "up", "-", "no"]
    [wire] = json.loads(lab("--json", "link", "set", "web", "a/eth0", "--up"))["links"]
    assert (wire["nic"], wire["rate"], wire["down"]) == ("eth0", 5_000_000, False)
    assert daemon.host.machines[lab.server.key("a")].dark == set()
    lab("link", "reset", "web")
    assert row(lab, "a/eth0")[3:] == ["up", "-", "no"]
    assert [kind for kind, _ in lab.server.story()].count("link.changed") == 5


def test_the_path_that_links_had_before_answers_as_it_did(lab: Cli) -> None:
    with Client(lab.server.socket) as client:
        ask = client.transport.json
        new, old = "/v1/labs/web/links", "/v1/labs/web/wires"
        changed = ask("PATCH", old, {"target": "a/eth0", "rate": 9000})
        assert list(changed) == ["wires"]
        assert changed["wires"][0]["rate"] == 9000
        assert ask("GET", old) == {"wires": ask("GET", new)["links"]}
        assert ask("DELETE", old)["wires"] == ask("GET", new)["links"] == client.links.show("web")
    paths = openapi()["paths"]
    for method in ("get", "patch", "delete"):
        assert paths["/v1/labs/{lab}/wires"][method]["deprecated"]
        assert "deprecated" not in paths["/v1/labs/{lab}/links"][method]


def test_every_impairment_that_is_declared_can_be_asked_for(lab: Cli) -> None:
    options = [f"--{item.name}={item.example}" for item in DECLARED]
    lab("link", "set", "web", "a/eth0", *options)
    assert row(lab, "a/eth0")[4:-1] == describe(
        {item.name: parse(item.name, item.example) for item in DECLARED}
    ).split(" ")
    body = openapi()["components"]["schemas"]["SetLinks"]["properties"]
    for item in DECLARED:
        bounds = body[item.name]["anyOf"][0]
        assert (bounds["minimum"], bounds["maximum"]) == (0, item.quantity.most)


def test_a_capture_ends_by_count(lab: Cli, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    path = tmp_path / "x"
    _, said = lab.both("capture", "web/a/eth0", "-w", str(path), "--count", "1")
    assert said == f"1 packet in {path}, 0 dropped\n"
    assert path.read_bytes() == b"headpackettail"
    told = json.loads(lab("--json", "capture", "web", "lan", "-w", str(path), "--count", "1"))
    assert told == {"file": str(path), "packets": 1, "dropped": 0, "reason": "count"}
    assert signal.getsignal(signal.SIGINT) is before
    made = lab.server.daemon.captures.open_ones
    assert len(made) == 2
    assert all(capture.closed for _, capture in made)


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
        (
            ("link", "set", "web", "wan", "--up"),
            4,
            NO_WAN,
        ),
        (("link", "show", "wab"), 4, "there is no lab wab; did you mean 'web'?"),
        (
            ("capture", "web", "wan", "-w", "/dev/null"),
            4,
            NO_WAN,
        ),
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
    assert "link.changed" not in [kind for kind, _ in lab.server.story()]
