"""Bad input at a running daemon: one clear line each, and neither labs nor host have changed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.harness import Daemon

GUEST = "image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB"
GOOD = f"""name: good
networks: {{lan: {{subnet: 10.0.0.0/24}}}}
nodes: {{a: {{{GUEST}, nics: {{eth0: {{network: lan, address: 10.0.0.10/24}}}}}}}}
"""


def networks(text: str) -> str:
    """Return the template with other networks."""
    return re.sub(r"networks: .*", f"networks: {{{text}}}", GOOD)


def nic(text: str) -> str:
    """Return the template with another NIC."""
    return re.sub(r"eth0: {[^}]*}", f"eth0: {{{text}}}", GOOD)


# What is wrong -> the template, and what is said of it after the place.
WRONG = {
    "overlapping subnets": (
        networks("lan: {subnet: 10.0.0.0/24}, wan: {subnet: 10.0.0.128/25}"),
        "network wan: subnet 10.0.0.128/25 overlaps 10.0.0.0/24 of network lan",
    ),
    "an address outside its subnet": (
        nic("network: lan, address: 10.0.1.10/24"),
        "node a, nic eth0: 10.0.1.10 is not in 10.0.0.0/24, the subnet of network lan",
    ),
    "a duplicate address": (
        GOOD.replace("eth0", "eth1: {network: lan, address: 10.0.0.10/24}, eth0"),
        "node a, nic eth0: 10.0.0.10 is the address of node a, nic eth1 already",
    ),
    "a gateway that is a network address": (
        nic("network: lan, address: 10.0.0.10/24, gateway: 10.0.0.0"),
        (
            "node a, nic eth0: gateway 10.0.0.0 is the address of the subnet 10.0.0.0/24 itself; "
            "choose another"
        ),
    ),
    "DHCP without a subnet": (
        networks("lan: {dhcp: true}"),
        "network lan: dhcp needs a subnet; write one, like subnet: 10.0.1.0/24",
    ),
    "an unknown model": (
        nic("network: lan, model: ne2k"),
        "node a, nic eth0, model: must be virtio, e1000, e1000e or rtl8139",
    ),
    "user-data that is no YAML": (
        GOOD.replace("nodes: {a: {", "nodes: {a: {cloud_init: {user_data: '{packages: [git'}, "),
        "node a, cloud_init, user_data: not valid YAML: a ',' or ']' is missing before this",
    ),
    "an interface that is not listed": (
        networks("lan: {subnet: 10.0.0.0/24, uplink: 'bridge:br-other'}"),
        (
            "network lan: bridge br-other is not one that labs may use; the administrator lists "
            "those as bridges in [network] of labd.toml"
        ),
    ),
}


@pytest.fixture
def busy() -> Iterator[int]:
    """Yield a port of the host that is in use."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield int(server.getsockname()[1])


def test_bad_input_is_told_in_one_line_and_changes_nothing(
    daemon: Daemon, busy: int, tmp_path: Path
) -> None:
    daemon.image("bootsector")
    path = tmp_path / "lab.yaml"
    path.write_text(GOOD)
    daemon.lab("up", str(path))

    def state() -> tuple[object, ...]:
        return (
            [lab["name"] for lab in daemon.json("ls")["labs"]],
            # How long it has been idle grows by itself.
            {**daemon.json("status", "good"), "activity": None},
            daemon.qemus(),
            daemon.namespaces(),
            daemon.on_host("nft", "list", "ruleset"),
            int(daemon.changes()[-1]["seq"]),
        )

    before = state()
    used = f"port 127.0.0.1:{busy} of the host is in use; choose another one, or 0 to have one"
    published = GOOD.replace("nodes: {a: {", f"nodes: {{a: {{publish: ['{busy}:80'], ")
    cases = [*WRONG.values(), (published, f"node a: publish 127.0.0.1:{busy}:80: {used} chosen")]
    for text, message in cases:
        # Both as an edit of the lab that runs, and as a new one.
        for name in ("good", "fresh"):
            path.write_text(text.replace("name: good", f"name: {name}"))
            said = daemon.lab("up", str(path), expect=2)
            place = rf"(?:lab: )?(?:{re.escape(str(path))}:\d+:\d+: )?(?:lab: )?"
            assert re.fullmatch(f"{place}{re.escape(message)}\n", said), said
    said = daemon.lab("capture", "good", "lan", "-w", "-", "--filter", "tcp prot", expect=2)
    assert said.startswith("lab: filter 'tcp prot': can't parse filter expression: syntax error")
    assert said.count("\n") == 1
    assert state() == before
