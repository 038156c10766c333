"""Links between real guests: carriers that are lost, and rates that are kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")

LAB = """
name: wires
links:
  wan: {ends: ["a:eth0", "b:eth0"], subnet: 10.0.0.0/24}
networks:
  lan: {subnet: 10.0.1.0/24}
nodes:
  a:
    image: tiny
    nics:
      eth0: {address: 10.0.0.1/24}
      eth1: {network: lan, address: 10.0.1.1/24, impair: {rate: 8mbit}}
  b:
    image: tiny
    nics:
      eth0: {address: 10.0.0.2/24}
  c:
    image: tiny
    nics:
      eth0: {network: lan, address: 10.0.1.3/24}
"""
SECONDS = 6
WITHIN = 0.15


def guest(daemon: Daemon, node: str, command: str, timeout: float = 90) -> str:
    return daemon.run("ssh", f"wires/{node}", command, timeout=timeout).stdout


def measured(daemon: Daemon, sender: str, receiver: str, address: str) -> float:
    """Return the megabits a second that TCP carries from one node to another."""
    guest(daemon, receiver, "iperf3 -s -1 -D >/dev/null 2>&1; sleep 1")
    text = guest(daemon, sender, f"iperf3 -c {address} -t {SECONDS} -O 1 -J")
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e6


def carrier(daemon: Daemon, node: str, nic: str) -> str:
    return guest(daemon, node, f"cat /sys/class/net/{nic}/carrier").strip()


def carrier_by_console(daemon: Daemon, node: str, nic: str) -> None:
    """Return when the guest sees no carrier; its network may be what is cut."""
    daemon.console(
        f"wires/{node}", f"echo carrier-$(cat /sys/class/net/{nic}/carrier)", "carrier-0"
    )


def test_links_of_real_guests(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    template = tmp_path / "wires.yaml"
    template.write_text(LAB)
    daemon.lab("up", str(template))
    daemon.json("status", "wires")  # looks at the taps: from here on their packets are counted
    # A rate of the template, of one sender in a network of many.
    assert measured(daemon, "a", "c", "10.0.1.3") == pytest.approx(8, rel=WITHIN)
    assert "traffic" in daemon.json("status", "wires")["activity"]["sources"]
    # A rate one way of a link; the other way is as fast as it was.
    daemon.lab("link", "set", "wires", "wan", "--from", "b", "--rate", "5mbit")
    assert measured(daemon, "b", "a", "10.0.0.1") == pytest.approx(5, rel=WITHIN)
    assert measured(daemon, "a", "b", "10.0.0.2") > 10
    # It survives a restart of the daemon and of a node.
    daemon.kill()
    daemon.start()
    daemon.lab("restart", "wires/a")
    assert measured(daemon, "b", "a", "10.0.0.1") == pytest.approx(5, rel=WITHIN)
    # A cut link is seen at both ends.
    daemon.lab("link", "set", "wires", "wan", "--down")
    carrier_by_console(daemon, "a", "eth0")
    carrier_by_console(daemon, "b", "eth0")
    assert carrier(daemon, "a", "eth1") == "1"
    shown = {(w["node"], w["nic"]): w for w in daemon.json("link", "show", "wires")["links"]}
    assert shown["b", "eth0"]["down"]
    assert shown["b", "eth0"]["rate"] == 5_000_000
    assert not shown["c", "eth0"]["changed"]
    daemon.lab("link", "reset", "wires")
    until(lambda: carrier(daemon, "a", "eth0") == "1", "the link is back")
    kinds = [event["type"] for event in daemon.events()]
    assert "io.labd.link.changed" in kinds
    [namespace] = daemon.namespaces()
    queues = subprocess.run(
        ["tc", "-n", namespace, "-j", "qdisc"], capture_output=True, text=True, check=True
    ).stdout
    assert sorted(q["kind"] for q in json.loads(queues) if q["kind"] in ("tbf", "ingress")) == [
        "ingress",
        "tbf",
    ], "only what the template says is left"


BAD = [
    (
        ("wan", "--loss", "1%"),
        2,
        (
            "lab: this kernel can limit rates only: delay, jitter, loss, duplicate and corrupt "
            "need its network emulator, CONFIG_NET_SCH_NETEM (module sch_netem)"
        ),
    ),
    (("wam", "--down"), 4, "lab: there is no link or network wam; did you mean 'wan'?"),
    (("wan", "--loss", "200%"), 2, "lab: loss must be 0% to 100%, not 200%"),
    (("wan",), 2, "lab: say what to change: --down, --up, --rate, --delay, --loss…"),
    (
        ("wan", "--rate", "10"),
        2,
        "lab: rate '10' is not valid: write it like 10mbit or 500kbit",
    ),
    (
        ("wan", "--from", "a", "--down"),
        2,
        "lab: a carrier is lost at every end: leave --from out, or name NODE/NIC",
    ),
]


def test_bad_requests(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("bootsector")
    template = tmp_path / "wires.yaml"
    template.write_text(LAB.replace("image: tiny", "image: bootsector"))
    daemon.lab("up", str(template))
    for args, status, says in BAD:
        found = daemon.run("link", "set", "wires", *args)
        assert (found.returncode, found.stderr.strip()) == (status, says)
    assert "yes" not in daemon.lab("link", "show", "wires")
