"""Uplinks of real guests, seen from inside, from the host and from an outside of the test's own."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from labd.host.failpoints import VARIABLE
from tests.system.harness import Daemon, until
from tests.system.outside import (
    HOST_ADDRESS,
    OUTSIDE_ADDRESS,
    WEB_PORT,
    Outside,
    connects,
    inside,
    run,
)

pytestmark = pytest.mark.usefixtures("built_tiny")

HOST_PORT = 7000
NAT = """name: nat
networks:
  lan: {subnet: 10.0.0.0/24, uplink: nat}
nodes:
  a:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: 10.0.0.2/24}}
"""
ALLOWED = f"""name: allowed
networks:
  lan: {{subnet: 10.0.0.0/24, uplink: nat, allow: [{{to: host, tcp: [{HOST_PORT}]}}]}}
  side: {{subnet: 10.0.1.0/24, gateway: labd}}
nodes:
  a:
    image: tiny
    memory: 128 MiB
    nics: {{eth0: {{network: lan, address: 10.0.0.2/24}}}}
  b:
    image: tiny
    memory: 128 MiB
    nics: {{eth0: {{network: side, address: 10.0.1.2/24}}}}
"""


def transit(daemon: Daemon) -> list[str]:
    """Return the addresses of the host's ends."""
    said = daemon.on_host("ip", "-o", "-4", "addr")
    return re.findall(rf"v{daemon.host_id}\S*\s+inet ([0-9.]+)/30", said)


def other_end(address: str) -> str:
    return str(ipaddress.IPv4Address(address) + 1)


def fetch(daemon: Daemon, node: str, address: str, port: int, wanted: str) -> None:
    """Have a guest ask a web server until it hears what is wanted."""
    # busybox's wget, linked statically with glibc, dies looking up even an address.
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}; echo end=$?"
    daemon.console(node, ask, wanted)


def scan(daemon: Daemon, node: str, addresses: list[str], ports: list[int]) -> str:
    """Have a guest, as root, try every port of every address, and ping; return what answered."""
    # All at once, for each that is dropped takes its whole time. And short, for busybox's shell
    # takes no line of more than 1,024 characters.
    command = (
        f"(for a in {' '.join(addresses)}; do "
        f"for p in {' '.join(map(str, ports))}; do "
        "(nc -w 3 $a $p </dev/null >/dev/null 2>&1 && echo open $a $p) & done; "
        "(ping -c 1 -W 3 $a >/dev/null && echo alive $a) & done; wait); echo scan''ned"
    )
    said = daemon.console(node, command, r"(?m)^scanned", seconds=90)
    return "\n".join(sorted(re.findall(r"^(?:open|alive) .*$", said, re.MULTILINE), reverse=True))


def services(daemon: Daemon) -> list[int]:
    """Return every TCP port at which anything listens on the host, and those of usual services."""
    listening = daemon.on_host("ss", "-Hltn").splitlines()
    found = {int(line.split()[3].rpartition(":")[2]) for line in listening}
    broker = int(daemon.json("version")["daemon"]["broker"]["port"])
    assert {HOST_PORT, broker} <= found
    # 22 is where the guest of the other lab has a server, and 53 where labd could have one.
    return sorted(found | {22, 53})


def test_two_labs_with_one_address_reach_the_outside_and_nothing_else(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    outside.serve(outside.host, HOST_PORT)
    daemon = make_daemon(namespace=outside.host)
    daemon.image()
    template = tmp_path / "nat.yaml"
    template.write_text(NAT)
    assert outside.forwarding() == "0"
    daemon.lab("up", str(template), "--timeout", "60", "--name", "one")
    daemon.lab("up", str(template), "--timeout", "60", "--name", "two")
    assert outside.forwarding() == "1"
    assert run(outside.host, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"
    for lab in ("one", "two"):
        fetch(daemon, f"{lab}/a", OUTSIDE_ADDRESS, WEB_PORT, rf"\nhello {HOST_ADDRESS}\nend=0")
    ends = transit(daemon)
    assert len(ends) == 2

    def closed() -> None:
        ports = services(daemon)
        addresses = [HOST_ADDRESS, *ends, *map(other_end, ends)]
        found = scan(daemon, "one/a", addresses, ports)
        # Its own end is a part of its lab, and nothing listens there.
        assert found.splitlines() in ([f"alive {other_end(end)}"] for end in ends)
        said = scan(daemon, "one/a", ["10.0.0.1", "10.0.0.2"], ports)
        # Its own server is the one at its address, which the other lab has too.
        assert said == "open 10.0.0.2 22\nalive 10.0.0.2\nalive 10.0.0.1"
        # Root may take any address, and routes as it likes.
        steal = "ip addr add 10.0.0.77/24 dev eth0; ip route replace default via 10.0.0.1 src "
        daemon.console("one/a", f"{steal}10.0.0.77; echo end=$?", r"end=0")
        stolen = scan(daemon, "one/a", addresses, ports)
        assert stolen.splitlines() in ([f"alive {other_end(end)}"] for end in ends)
        back = "ip addr del 10.0.0.77/24 dev eth0; ip route replace default via 10.0.0.1"
        daemon.console("one/a", f"{back}; echo end=$?", r"end=0")
        nothing_reaches_in(outside, ends)

    reached = f"open {OUTSIDE_ADDRESS} {WEB_PORT}\nalive {OUTSIDE_ADDRESS}"
    assert scan(daemon, "one/a", [OUTSIDE_ADDRESS], [WEB_PORT]) == reached
    closed()
    daemon.kill()
    closed_to_the_host(outside, ends)
    run(outside.host, "nft", "flush", "ruleset")  # as firewalls do that are loaded anew
    daemon.start()
    closed()
    fetch(daemon, "two/a", OUTSIDE_ADDRESS, WEB_PORT, rf"\nhello {HOST_ADDRESS}\nend=0")
    daemon.lab("destroy", "one", "--force")
    assert outside.forwarding() == "1"
    assert len(transit(daemon)) == 1
    fetch(daemon, "two/a", OUTSIDE_ADDRESS, WEB_PORT, rf"\nhello {HOST_ADDRESS}\nend=0")
    daemon.lab("down", "two", "--force")
    assert outside.forwarding() == "0"
    assert daemon.on_host("nft", "list", "tables") == ""


def closed_to_the_host(outside: Outside, ends: list[str]) -> None:
    """The host itself reaches no lab."""
    for end in ends:
        assert not connects(outside.host, other_end(end), 22)


def nothing_reaches_in(outside: Outside, ends: list[str]) -> None:
    """Whoever routes to the host reaches neither transit addresses nor guests through it."""
    for subnet in ("198.18.0.0/16", "10.0.0.0/24"):
        run(outside.out, "ip", "route", "replace", subnet, "via", HOST_ADDRESS)
    for address in [*map(other_end, ends), "10.0.0.2"]:
        done = subprocess.run(
            [*inside(outside.out), "ping", "-c", "1", "-W", "1", address],
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0, address
        assert not connects(outside.out, address, 22), address
    closed_to_the_host(outside, ends)


def test_what_allow_says_is_reached_and_no_more(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    for port in (HOST_PORT, HOST_PORT + 1):
        outside.serve(outside.host, port)
    daemon = make_daemon(namespace=outside.host)
    daemon.image()
    template = tmp_path / "allowed.yaml"
    template.write_text(ALLOWED)
    daemon.lab("up", str(template))
    end = transit(daemon)[0]
    fetch(daemon, "allowed/a", "10.0.0.1", HOST_PORT, rf"\nhello {other_end(end)}\nend=0")
    ports = [HOST_PORT, HOST_PORT + 1]
    assert scan(daemon, "allowed/a", [HOST_ADDRESS, end], ports) == ""
    # labd routes between the networks whose gateway it is; only one of them has an uplink.
    assert scan(daemon, "allowed/b", ["10.0.0.2"], [22]) == "open 10.0.0.2 22\nalive 10.0.0.2"
    assert scan(daemon, "allowed/b", [OUTSIDE_ADDRESS, end, "10.0.1.1"], ports) == "alive 10.0.1.1"
    template.write_text(ALLOWED.replace(f"tcp: [{HOST_PORT}]", f"tcp: [{HOST_PORT + 1}]"))
    pids = daemon.pids("allowed")
    daemon.lab("up", str(template))
    assert daemon.pids("allowed") == pids, "rules change under running guests"
    assert scan(daemon, "allowed/a", ["10.0.0.1"], ports) == (
        f"open 10.0.0.1 {HOST_PORT + 1}\nalive 10.0.0.1"
    )
    template.write_text(NAT.replace("name: nat", "name: allowed").replace(", uplink: nat", ""))
    daemon.lab("up", str(template))
    assert daemon.on_host("nft", "list", "tables") == ""
    assert outside.forwarding() == "0"


BRIDGED = """name: bridged
networks:
  office: {{subnet: 198.51.100.0/24, uplink: "bridge:{bridge}"{more}}}
nodes:
  a:
    image: tiny
    memory: 128 MiB
    nics: {{eth0: {{network: office, address: 198.51.100.2/24}}}}
"""
CONFIG = '[network]\nbridges = ["br-office", "br-gone", "eth0"]\n'


def bridged(path: Path, bridge: str, more: str = "") -> str:
    path.write_text(BRIDGED.format(bridge=bridge, more=more))
    return str(path)


def make_office(outside: Outside) -> None:
    """Make a bridge on the host, and a wire from it to the outside: 198.51.100.1."""
    run(outside.host, "ip", "link", "add", "br-office", "type", "bridge")
    run(outside.host, "ip", "link", "set", "br-office", "up")
    pair = ["type", "veth", "peer", "office", "netns", outside.out]
    run(outside.host, "ip", "link", "add", "port0", *pair)
    run(outside.host, "ip", "link", "set", "port0", "master", "br-office", "up")
    run(outside.out, "ip", "addr", "add", "198.51.100.1/24", "dev", "office")
    run(outside.out, "ip", "link", "set", "office", "up")


def test_a_network_is_mapped_to_a_bridge_of_the_host(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    make_office(outside)
    before = set(daemon_links(outside))
    daemon = make_daemon(CONFIG, namespace=outside.host)
    daemon.image()
    daemon.lab("up", bridged(tmp_path / "lab.yaml", "br-office"))
    fetch(daemon, "bridged/a", "198.51.100.1", WEB_PORT, r"\nhello 198\.51\.100\.2\nend=0")
    assert connects(outside.out, "198.51.100.2", 22), "the outside reaches in, on this one wire"
    assert daemon.on_host("nft", "list", "tables") == ""
    assert outside.forwarding() == "0"
    daemon.kill()
    daemon.start()
    fetch(daemon, "bridged/a", "198.51.100.1", WEB_PORT, r"\nhello 198\.51\.100\.2\nend=0")
    daemon.lab("destroy", "bridged", "--force")
    assert set(daemon_links(outside)) == before


def daemon_links(outside: Outside) -> list[str]:
    said = run(outside.host, "ip", "-o", "link")
    return re.findall(r"^\d+: ([^:@]+)", said, re.MULTILINE)


def test_a_vlan_is_tagged_or_refused_by_the_name_of_the_option(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    make_office(outside)
    daemon = make_daemon(CONFIG, namespace=outside.host)
    daemon.image()
    template = bridged(tmp_path / "lab.yaml", "br-office", ", vlan: 20")
    tagged = ["link", "add", "link", "office", "name", "tagged", "type", "vlan", "id", "20"]
    done = subprocess.run(
        [*inside(outside.out), "ip", *tagged], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = daemon.lab("up", template, expect=1)
        assert "network office: vlan 20 needs CONFIG_VLAN_8021Q of the kernel: " in said
        assert daemon.json("ls")["labs"] == []
        return
    run(outside.out, "ip", "addr", "flush", "dev", "office")
    run(outside.out, "ip", "addr", "add", "198.51.100.1/24", "dev", "tagged")
    run(outside.out, "ip", "link", "set", "tagged", "up")
    daemon.lab("up", template)
    fetch(daemon, "bridged/a", "198.51.100.1", WEB_PORT, r"\nhello 198\.51\.100\.2\nend=0")


def test_what_cannot_be_had_is_refused_before_anything_changes(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(CONFIG + 'transit = "192.0.2.0/24"\n', namespace=outside.host)
    daemon.image()
    last = int(daemon.events()[-1]["seq"])
    template = tmp_path / "lab.yaml"

    def refused(text: str, message: str) -> None:
        template.write_text(text)
        assert daemon.lab("up", str(template), expect=2) == f"lab: {message}\n"

    refused(
        BRIDGED.format(bridge="br-other", more=""),
        "network office: bridge br-other is not one that labs may use; the administrator lists "
        "those as bridges in [network] of labd.toml",
    )
    refused(
        BRIDGED.format(bridge="br-gone", more=""),
        "network office: the host has no interface br-gone; make it: ip link add br-gone type "
        "bridge",
    )
    refused(
        BRIDGED.format(bridge="eth0", more=""),
        "network office: eth0 is no bridge; make one, put eth0 in it, and list that in labd.toml",
    )
    refused(
        NAT,
        "the host has a route to 192.0.2.0/24, from which labs' transit addresses come; write "
        "another subnet as transit in [network] of labd.toml",
    )
    run(outside.host, "ip", "route", "del", "default")
    refused(
        NAT,
        "uplink nat: the host has no default route; add one, or name the interface as outside in "
        "[network] of labd.toml",
    )
    assert daemon.changes(last) == []
    assert daemon.json("ls")["labs"] == []
    assert daemon.namespaces() == []
    assert daemon.on_host("nft", "list", "tables") == ""


def test_a_daemon_that_dies_on_the_way_out_leaves_nothing(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(start=False, namespace=outside.host)
    orders = tmp_path / "orders"
    orders.touch()
    daemon.environment[VARIABLE] = str(orders)
    daemon.start()
    daemon.image("bootsector")
    template = tmp_path / "lab.yaml"
    machine = "image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB"
    template.write_text(
        "name: dying\nnetworks: {lan: {subnet: 10.0.0.0/24, uplink: nat}}\n"
        f"nodes: {{a: {{{machine}, nics: {{e: {{network: lan}}}}}}}}\n"
    )
    for number, place in enumerate(
        f"uplinks.{call}:{side}" for call in ("apply", "remove") for side in ("before", "after")
    ):
        fresh = tmp_path / f"orders-{number}"
        fresh.write_text(f"{place} = kill\n")
        fresh.replace(orders)
        daemon.run("up", str(template), timeout=60)
        if "remove" in place:
            assert outside.forwarding() == "1"
            daemon.run("destroy", "dying", "--force", timeout=60)
        assert daemon.process is not None
        assert daemon.process.wait(30) != 0, place
        orders.write_text("")
        daemon.start()
        if "apply" in place:
            until(lambda: daemon.states("dying") == {"a": "ready"}, "up goes on")
            assert outside.forwarding() == "1"
            assert len(transit(daemon)) == 1
            daemon.lab("destroy", "dying", "--force")
        until(lambda: daemon.json("ls")["labs"] == [], "destroy has ended")
        assert daemon.leaks() == [], place
        assert outside.forwarding() == "0", place


def test_what_the_administrator_closed_is_reached_by_allow_alone(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    config = f'[network]\nclosed = ["{OUTSIDE_ADDRESS}/32"]\noutside = ["eth0"]\n'
    daemon = make_daemon(config, namespace=outside.host)
    daemon.image("bootsector")
    template = tmp_path / "lab.yaml"
    text = (
        "name: shut\nnetworks: {lan: {subnet: 10.0.0.0/24, uplink: nat%s}}\n"
        "nodes: {a: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB}}\n"
    )
    template.write_text(text % "")
    daemon.lab("up", str(template))
    (space,) = daemon.namespaces()
    assert not connects(space, OUTSIDE_ADDRESS, WEB_PORT)
    template.write_text(text % f", allow: [{{to: {OUTSIDE_ADDRESS}, tcp: [{WEB_PORT}]}}]")
    daemon.lab("up", str(template))
    assert connects(space, OUTSIDE_ADDRESS, WEB_PORT)
