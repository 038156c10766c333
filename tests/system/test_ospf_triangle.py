"""The exercise `ospf-triangle`: it converges, goes round a cut link, and comes back."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.system.harness import TEMPLATES, Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")

R2, R3, FAR = "10.0.12.2", "10.0.13.2", "10.255.0.3"
_CONVERGED = 90  # seconds that a loaded host may take


def on_r1(daemon: Daemon, *command: str) -> str:
    return daemon.lab("exec", "-n", "ospf-triangle/r1", "--", *command)


def via(daemon: Daemon) -> str:
    """Return the next hop from r1 to r3's loopback, by r1's kernel."""
    found = re.search(r"via (\S+)", on_r1(daemon, "sh", "-c", f"ip route get {FAR} 2>&1; true"))
    return found[1] if found else ""


def ping(daemon: Daemon) -> str:
    return on_r1(daemon, "sh", "-c", f"ping -c 1 -W 2 {FAR}; true")


def neighbours(daemon: Daemon) -> int:
    return on_r1(daemon, "vtysh", "-c", "show ip ospf neighbor").count("Full/")


def test_it_converges_and_goes_round_a_cut(daemon: Daemon) -> None:
    daemon.image("router")
    daemon.lab("up", str(TEMPLATES / "ospf-triangle.yaml"))
    until(lambda: neighbours(daemon) == 2, "r1 has two neighbours", _CONVERGED)
    until(lambda: via(daemon) == R3, "the direct way is taken", _CONVERGED)

    daemon.lab("link", "set", "ospf-triangle", "r1-r3", "--down")
    until(lambda: via(daemon) == R2, "the long way is taken", _CONVERGED)
    # r3 takes the long way back a moment later.
    until(lambda: "ttl=63" in ping(daemon), "it is reached, with one router between", _CONVERGED)

    daemon.lab("link", "reset", "ospf-triangle", "r1-r3")
    until(lambda: via(daemon) == R3, "the direct way is back", _CONVERGED)
    until(lambda: "ttl=64" in ping(daemon), "it is reached, with none between", _CONVERGED)

    page = (TEMPLATES / "ospf-triangle.md").read_text()
    solution = re.findall(r"^6\. On r1: `(vtysh .*)`\.$", page, re.MULTILINE)[0]
    on_r1(daemon, *shlex.split(solution))
    until(lambda: via(daemon) == R2, "the cheaper way is taken", _CONVERGED)
