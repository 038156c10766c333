"""Addresses and names of real labs: whom a server answers, and what it outlives."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.system.harness import Daemon, Json, is_alive, until
from tests.system.outside import run

pytestmark = pytest.mark.usefixtures("built_tiny")

SERVED = """name: served
networks:
  lan:
    subnet: 10.0.1.0/24
    subnet6: fd00:1::/64
    dhcp: true
    dns: {records: {www: 10.0.1.10}}
nodes:
  web:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: 10.0.1.10/24}}
  pc:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: dhcp}}
"""
OWN = "10.0.1.254"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Return a file with the template."""
    path = tmp_path / "served.yaml"
    path.write_text(SERVED)
    return path


def told(daemon: Daemon, kind: str, after: int = 0) -> list[Json]:
    return [e for e in daemon.events(after) if e["type"] == f"io.labd.network.{kind}"]


def asked(daemon: Daemon, node: str, name: str, wanted: str) -> str:
    return daemon.console(node, f"nslookup {name} {OWN}; echo do''ne", rf"(?s){wanted}.*\ndone")


def test_a_server_outlives_labd_and_is_started_again_when_it_ends(
    daemon: Daemon, template: Path
) -> None:
    daemon.image()
    daemon.lab("up", str(template), "--timeout", "60")
    asked(daemon, "served/pc", "web", r"Address: 10\.0\.1\.10\n")
    until(lambda: bool(told(daemon, "lease")), "the lease is told")
    (lease,) = [e for e in told(daemon, "lease") if "." in e["data"]["address"]]
    assert (lease["subject"], lease["node"]) == ("served/pc", "pc")
    assert re.fullmatch(r"10\.0\.1\.\d+", lease["data"]["address"])
    (first,) = daemon.servers()
    assert os.stat(f"/proc/{first}").st_uid > 100_000

    # Killed and started anew: the same process serves, and a lease of meanwhile is told once.
    seq = lease["seq"]
    daemon.kill()
    assert is_alive(first)
    daemon.start()
    assert daemon.servers() == [first]
    asked(daemon, "served/pc", "www", r"Address: 10\.0\.1\.10\n")
    assert [e for e in told(daemon, "lease", seq) if "." in e["data"]["address"]] == []

    # It dies: told, replaced, and it still knows its leases.
    os.kill(first, signal.SIGKILL)
    until(lambda: bool(told(daemon, "server-restored", seq)), "it is replaced")
    assert len(told(daemon, "server-ended", seq)) == 1
    (second,) = daemon.servers()
    assert second != first
    asked(daemon, "served/web", "pc", rf"Address: {re.escape(lease['data']['address'])}\n")

    # It dies while labd is away.
    daemon.kill()
    os.kill(second, signal.SIGKILL)
    daemon.start()
    until(lambda: len(daemon.servers()) == 1, "it is replaced at the start")
    (third,) = daemon.servers()

    # Another name is read by the process that runs; another range takes another one.
    template.write_text(SERVED.replace("www:", "ftp:"))
    daemon.lab("up", str(template), "--timeout", "60")
    assert daemon.servers() == [third]
    asked(daemon, "served/pc", "ftp", r"Address: 10\.0\.1\.10\n")
    asked(daemon, "served/pc", "www", "NXDOMAIN")
    template.write_text(SERVED.replace("dhcp: true", "dhcp: {lease: 2h}"))
    daemon.lab("up", str(template), "--timeout", "60")
    (fourth,) = daemon.servers()
    assert fourth != third
    asked(daemon, "served/pc", "pc.lab", rf"Address: {re.escape(lease['data']['address'])}\n")

    # Without the keys there is none.
    lines = [
        line for line in SERVED.splitlines() if " dhcp: true" not in line and "dns:" not in line
    ]
    template.write_text("\n".join(lines) + "\n")
    daemon.lab("up", str(template), "--timeout", "60")
    assert daemon.servers() == []
    assert list((daemon.root / "run" / "d").iterdir()) == []


def test_a_guest_has_addresses_of_both_versions(daemon: Daemon, template: Path) -> None:
    daemon.image()
    daemon.lab("up", str(template), "--timeout", "60")
    ask = "ip -6 addr show eth0; ip -6 route; echo do''ne"
    said = daemon.console(
        "served/pc",
        f"until ip -6 addr show eth0 | grep -q fd00; do sleep 1; done; {ask}",
        r"\ndone",
    )
    assert re.search(r"inet6 fd00:1::[0-9a-f:]+/64", said)
    assert "default" not in said, "labd routes no IPv6"
    daemon.console("served/pc", "ping -c 1 fd00:1::fffe", "1 packets received")

    # What it has is told by its agent, and by the lease when that does not answer.
    def has() -> set[tuple[str, str]]:
        found = daemon.json("status", "served/pc", "--addresses")["addresses"]
        return {(item["source"], "6" if ":" in item["address"] else "4") for item in found}

    until(lambda: has() == {("agent", "4"), ("agent", "6")}, "the agent tells both")
    assert "served/pc  eth0  10.0.1." in re.sub(" +", "  ", daemon.lab("ls", "--addresses"))
    daemon.console("served/pc", "killall qemu-ga; echo do''ne", r"(?m)^done")
    until(lambda: ("lease", "4") in has(), "the lease is told instead")
    assert daemon.lab("ssh", "served/pc", "hostname") == "pc\n"


def test_two_labs_of_one_template_hear_nothing_of_each_other(
    daemon: Daemon, template: Path
) -> None:
    daemon.image()
    daemon.lab("up", str(template), "--timeout", "90", "--name", "one")
    template.write_text(SERVED.replace("www:", "ftp:"))
    daemon.lab("up", str(template), "--timeout", "90", "--name", "two")
    assert len(daemon.servers()) == 2
    asked(daemon, "one/pc", "ftp", "NXDOMAIN")
    asked(daemon, "two/pc", "ftp", r"Address: 10\.0\.1\.10\n")
    asked(daemon, "two/pc", "www", "NXDOMAIN")
    # What a lab's server sends stays in the lab: packets are counted where they would come in.
    keys = {lab["name"]: lab["key"] for lab in daemon.json("ls")["labs"]}

    def heard(name: str) -> int:
        space = f"labd-{daemon.host_id}-{keys[name]}"
        told = json.loads(run(space, "ip", "-j", "-s", "link", "show", "br-lan"))
        return int(told[0]["stats64"]["rx"]["packets"])

    before = heard("two")
    flood = f"for i in $(seq 40); do nslookup web {OWN} >/dev/null; done; echo do''ne"
    first = heard("one")
    daemon.console("one/pc", flood, r"(?m)^done")
    assert heard("one") - first >= 40
    assert heard("two") - before < 20
    daemon.lab("destroy", "one", "--force")
    assert len(daemon.servers()) == 1
    asked(daemon, "two/pc", "web", r"Address: 10\.0\.1\.10\n")
