"""Port security with real frames on real taps: what is forged never comes out, and is counted."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import struct
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from labd.drivers.network.linux import LabNetworks
from labd.host.commands import run
from labd.model.network import BridgePlan, GuardPlan, LabNetworkPlan, PortPlan
from tests.system.harness import Daemon

OWN, OTHER, ALL = bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), b"\xff" * 6
IP, THEIRS = IPv4Address("10.0.0.7"), IPv4Address("10.0.0.8")
IP6, THEIRS6 = IPv6Address("fd00::7"), IPv6Address("fd00::8")
LINK6 = IPv6Address("fe80::1")


def ether(kind: int, body: bytes, source: bytes = OWN, tags: tuple[int, ...] = ()) -> bytes:
    """Return a virtio-net header and a frame, whose tags have those VLAN ids."""
    inner = b"".join(struct.pack(">HH", 0x8100, tag) for tag in tags)
    return bytes(10) + ALL + source + inner + struct.pack(">H", kind) + body.ljust(50, b"\0")


def ipv4(source: IPv4Address, ports: tuple[int, int] = (9, 9)) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0)
    head += source.packed + IPv4Address("255.255.255.255").packed
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checked = head[:10] + struct.pack(">H", 0xFFFF ^ total) + head[12:]
    return checked + struct.pack(">HHHH", *ports, 8, 0)


def arp(address: IPv4Address, mac: bytes = OWN) -> bytes:
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    return head + mac + address.packed + bytes(6) + THEIRS.packed


def ipv6(source: IPv6Address, body: bytes = bytes(8), header: int = 59) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(body), header, 255)
    return head + source.packed + IPv6Address("ff02::1").packed + body


def advert(target: IPv6Address) -> bytes:
    return struct.pack(">BBHI", 136, 0, 0, 0) + target.packed


PASS = {
    "own IPv4": ether(0x0800, ipv4(IP)),
    "own ARP": ether(0x0806, arp(IP)),
    "ARP probe": ether(0x0806, arp(IPv4Address(0))),
    "DHCP discover": ether(0x0800, ipv4(IPv4Address(0), (68, 67))),
    "own IPv6": ether(0x86DD, ipv6(IP6)),
    "link-local IPv6": ether(0x86DD, ipv6(LINK6)),
    "own neighbour": ether(0x86DD, ipv6(LINK6, advert(IP6), 58)),
    "own IPv4, tagged": ether(0x0800, ipv4(IP), tags=(5,)),
    "LLDP": ether(0x88CC, b""),
}
DROP = {
    "MAC of another": ether(0x0800, ipv4(IP), OTHER),
    "LLDP of another": ether(0x88CC, b"", OTHER),
    "IPv4 of another": ether(0x0800, ipv4(THEIRS)),
    "no address, no DHCP": ether(0x0800, ipv4(IPv4Address(0))),
    "IPv4 of another in VLAN 0": ether(0x0800, ipv4(THEIRS), tags=(0,)),
    "IPv4 of another in two tags": ether(0x0800, ipv4(THEIRS), tags=(0, 0)),
    "ARP for another": ether(0x0806, arp(THEIRS)),
    "ARP with another MAC": ether(0x0806, arp(IP, OTHER)),
    "IPv6 of another": ether(0x86DD, ipv6(THEIRS6)),
    "neighbour of another": ether(0x86DD, ipv6(LINK6, advert(THEIRS6), 58)),
}
END = ether(0x88B5, b"end")


@pytest.fixture
async def lab() -> AsyncIterator[tuple[LabNetworks, LabNetworkPlan]]:
    root = secrets.token_hex(4)
    networks = LabNetworks(root)
    plan = LabNetworkPlan(
        namespace=f"labd-{root}-one",
        bridges=(BridgePlan(network="lan", bridge="br-lan"),),
        ports=tuple(
            PortPlan(key=key, nic="n0", tap=f"t{key}0", bridge="br-lan") for key in ("aaaaaa", "b")
        ),
        guards=(
            GuardPlan(
                tap="taaaaaa0", mac=OWN.hex(":"), strict=True, ipv4=(str(IP),), ipv6=(str(IP6),)
            ),
        ),
    )
    yield networks, plan
    await networks.remove(plan.namespace)
    assert await networks.namespaces() == []


async def heard(send: int, hear: int, frame: bytes) -> bool:
    """Tell whether a frame comes out at the other end; one that always does follows it."""
    os.write(send, frame)
    os.write(send, END)
    got: list[bytes] = []
    async with asyncio.timeout(10):
        while not got or got[-1][:34] != END[10:44]:
            try:
                got.append(os.read(hear, 2000)[10:])
            except BlockingIOError:
                await asyncio.sleep(0.005)
    # The padding behind an IP packet is taken off on the way.
    return any(item[:34] == frame[10:44] for item in got)


async def test_forged_frames_do_not_pass_and_are_counted(
    lab: tuple[LabNetworks, LabNetworkPlan],
) -> None:
    networks, plan = lab
    await networks.apply(plan)
    taps = await networks.open_taps(plan, ["aaaaaa", "b"])
    send, hear = taps["aaaaaa"]["n0"], taps["b"]["n0"]
    try:
        assert {name for name, frame in PASS.items() if not await heard(send, hear, frame)} == set()
        assert {name for name, frame in DROP.items() if await heard(send, hear, frame)} == set()
        assert await heard(hear, send, DROP["IPv4 of another"]), "the other NIC is not guarded"
        said = await run(
            ["ip", "netns", "exec", plan.namespace, "nft", "-j", "list", "table", "bridge",
             "labd_guard"]
        )  # fmt: skip
        counted = [
            part["counter"]["packets"]
            for entry in json.loads(said.stdout)["nftables"]
            for part in entry.get("rule", {}).get("expr", ())
            if "counter" in part
        ]
        assert sum(counted) == len(DROP)
        # The rules stay over a second daemon, and go when the template says so.
        await LabNetworks(plan.namespace.split("-")[1]).apply(plan)
        assert not await heard(send, hear, DROP["IPv4 of another"])
        unguarded = LabNetworkPlan(namespace=plan.namespace, bridges=plan.bridges, ports=plan.ports)
        for _ in range(2):
            await networks.apply(unguarded)
            assert await heard(send, hear, DROP["IPv4 of another"])
    finally:
        os.close(send)
        os.close(hear)


def test_an_edit_switches_it_on_and_off(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Nothing is restarted for it, and `lab plan` says so."""
    daemon = make_daemon()
    daemon.image("bootsector")
    text = (
        "name: one\nnetworks: {{lan: {{subnet: 10.0.0.0/24{}}}}}\n"
        "nodes: {{a: {{image: bootsector, disk_bus: ide, machine: pc,\n"
        "  nics: {{eth0: {{network: lan, address: 10.0.0.7/24, model: e1000}}}}}}}}\n"
    )
    path = tmp_path / "one.yaml"
    path.write_text(text.format(""))
    daemon.lab("up", str(path))
    (before,) = daemon.qemus()
    path.write_text(text.format(", port_security: address"))
    assert "port_security: none -> address" in daemon.lab("plan", str(path))
    daemon.lab("up", str(path))
    assert list(daemon.qemus()) == [before]
