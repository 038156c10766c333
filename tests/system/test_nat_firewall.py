"""The exercise `nat-firewall`, done as its page says."""

from __future__ import annotations

import re

import pytest

from tests.system.harness import TEMPLATES, Daemon

pytestmark = pytest.mark.usefixtures("built_tiny")

ROUTER, PC, WEB, INTERNET = "203.0.113.1", "10.20.1.10", "10.20.2.10", "203.0.113.10"
OFFICE, WORLD = "the web server of the office", "the whole world"


def guest(daemon: Daemon, node: str, command: str) -> str:
    """Run a command in a shell of a node."""
    return daemon.run("ssh", f"nat-firewall/{node}", command, timeout=90).stdout


def page(daemon: Daemon, node: str, address: str) -> str:
    """Ask a web server for its page, and return the last line of the answer."""
    said = guest(daemon, node, f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80")
    return said.splitlines()[-1] if said else ""


def scan(daemon: Daemon, node: str, *addresses: str) -> set[str]:
    """Return `ADDRESS PORT` for SSH and HTTP, and `ADDRESS ping`, that answer to a node."""
    said = guest(
        daemon,
        node,
        f"for a in {' '.join(addresses)}; do "
        "for p in 22 80; do nc -w 2 $a $p </dev/null >/dev/null 2>&1 && echo $a $p; done; "
        "ping -c 1 -W 2 $a >/dev/null && echo $a ping; done",
    )
    return set(said.splitlines())


def test_the_exercise_has_the_solution_that_its_page_shows(daemon: Daemon) -> None:
    daemon.image()
    text = (TEMPLATES / "nat-firewall.md").read_text()
    solution = re.findall(r"^```nft\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    daemon.lab("up", str(TEMPLATES / "nat-firewall.yaml"))
    assert page(daemon, "pc", WEB) == OFFICE
    assert page(daemon, "pc", INTERNET) == "", "nobody outside knows the way back"
    assert scan(daemon, "internet", ROUTER) == {f"{ROUTER} 22", f"{ROUTER} ping"}
    assert f"{PC} 22" in scan(daemon, "web", PC)
    loaded = daemon.run("ssh", "nat-firewall/router", "nft -f -", text=solution)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    guest(daemon, "internet", "ip route add 10.20.0.0/16 via 203.0.113.1")
    # 1: out, by the router's address.
    assert page(daemon, "pc", INTERNET) == WORLD
    listening = "(nc -l -p 9000 -e sh -c 'netstat -tn' >/dev/null &) ; sleep 1"
    guest(daemon, "internet", listening)
    table = guest(daemon, "pc", f"nc -w 5 {INTERNET} 9000 </dev/null")
    asks = [line.split()[4].rpartition(":")[0] for line in table.splitlines() if ":9000 " in line]
    assert [address.removeprefix("::ffff:") for address in asks] == [ROUTER]
    # 2 and 3: one door, and nothing else.
    assert page(daemon, "internet", ROUTER) == OFFICE
    assert scan(daemon, "internet", ROUTER, PC, WEB, "10.20.1.1") == {f"{ROUTER} 80"}
    # 4: the DMZ.
    assert scan(daemon, "web", PC, "10.20.1.1", "10.20.2.1") == set()
    assert page(daemon, "web", INTERNET) == WORLD
    assert page(daemon, "pc", WEB) == OFFICE
    # 5: the inside still reaches the router.
    assert scan(daemon, "pc", "10.20.1.1") == {"10.20.1.1 22", "10.20.1.1 ping"}
