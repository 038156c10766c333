"""Namespaces, bridges and taps as the kernel has them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from labd.drivers.network.linux import LabNetworks
from labd.drivers.network.linux.netns import FOLDER
from labd.model.errors import NetworkFailed
from labd.model.network import BridgePlan, LabNetworkPlan, PortPlan

# A virtio-net header (10 bytes) and an Ethernet frame of the local experimental type 0x88b5.
FRAME = bytes(10) + b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + b"\x88\xb5" + b"hello".ljust(46)


@pytest.fixture
async def networks() -> AsyncIterator[tuple[LabNetworks, str]]:
    root = secrets.token_hex(4)
    made = LabNetworks(root)
    yield made, root
    assert await made.namespaces() == [], "nothing is left"


def plan_of(root: str, lab: str, *, address: str = "") -> LabNetworkPlan:
    return LabNetworkPlan(
        namespace=f"labd-{root}-{lab}",
        bridges=(BridgePlan(network="lan", bridge="br-lan", address=address, mtu=1400),),
        ports=tuple(
            PortPlan(key=key, nic="n0", tap=f"t{key}0", bridge="br-lan", mtu=1400)
            for key in ("aaaaaa", "bbbbbb")
        ),
    )


def links(namespace: str) -> dict[str, Any]:
    text = subprocess.run(
        ["ip", "-n", namespace, "-j", "-d", "addr"], capture_output=True, text=True, check=True
    ).stdout
    return {link["ifname"]: link for link in json.loads(text)}


async def test_apply_is_idempotent_and_removes_what_is_not_planned(
    networks: tuple[LabNetworks, str],
) -> None:
    made, root = networks
    plan = plan_of(root, "one", address="10.0.0.254/24")
    try:
        await made.apply(plan)
        first = links(plan.namespace)
        assert set(first) == {"lo", "br-lan"}
        assert first["br-lan"]["mtu"] == 1400
        assert [a["local"] for a in first["br-lan"]["addr_info"]] == ["10.0.0.254"], "no IPv6"
        assert first["br-lan"]["linkinfo"]["info_data"]["stp_state"] == 0
        await made.apply(plan)
        assert links(plan.namespace)["br-lan"]["ifindex"] == first["br-lan"]["ifindex"]
        other = LabNetworkPlan(
            namespace=plan.namespace, bridges=(BridgePlan(network="x", bridge="br-x"),)
        )
        await made.apply(other)
        assert list(await made.bridges(plan.namespace)) == ["br-x"]
    finally:
        await made.remove(plan.namespace)
        await made.remove(plan.namespace)


async def test_taps_carry_frames_in_their_lab_and_in_no_other(
    networks: tuple[LabNetworks, str],
) -> None:
    made, root = networks
    plans = [plan_of(root, "one"), plan_of(root, "two")]
    fds: list[int] = []
    try:
        taps = []
        for plan in plans:
            await made.apply(plan)
            taps.append(await made.open_taps(plan, ["aaaaaa", "bbbbbb"]))
        fds = [fd for lab in taps for nics in lab.values() for fd in nics.values()]
        os.write(taps[0]["aaaaaa"]["n0"], FRAME)
        await asyncio.sleep(0.2)
        assert os.read(taps[0]["bbbbbb"]["n0"], 2000)[10:] == FRAME[10:]
        for key in ("aaaaaa", "bbbbbb"):
            with pytest.raises(BlockingIOError):
                os.read(taps[1][key]["n0"], 2000)
        for fd in fds:
            os.close(fd)
        fds = []
        assert set(links(plans[0].namespace)) == {"lo", "br-lan"}, "a tap ends with its descriptor"
    finally:
        for fd in fds:
            os.close(fd)
        for plan in plans:
            await made.remove(plan.namespace)


async def test_a_namespace_of_somebody_else_is_refused_and_untouched(
    networks: tuple[LabNetworks, str],
) -> None:
    made, root = networks
    plan = plan_of(root, "theirs")
    subprocess.run(["ip", "netns", "add", plan.namespace], check=True)
    try:
        subprocess.run(
            ["ip", "-n", plan.namespace, "link", "add", "br0", "type", "bridge"], check=True
        )
        tap = ["ip", "tuntap", "add", "tap0", "mode", "tap", "group", "0"]
        subprocess.run(["ip", "netns", "exec", plan.namespace, *tap], check=True)
        # labd deletes the taps of a namespace by their group; see links.py.
        group = ["ip", "-n", plan.namespace, "link", "set", "tap0", "group", str(0x7A7)]
        subprocess.run(group, check=True)
        before = links(plan.namespace)
        with pytest.raises(NetworkFailed, match="was not made by labd"):
            await made.apply(plan)
        assert await made.bridges(plan.namespace) == []
        await made.unplug(plan.namespace)
        await made.remove(plan.namespace)
        assert links(plan.namespace) == before
    finally:
        subprocess.run(["ip", "netns", "del", plan.namespace], check=True)


async def test_a_port_is_probed_from_inside(networks: tuple[LabNetworks, str]) -> None:
    made, root = networks
    plan = plan_of(root, "probe", address="10.0.0.254/24")
    try:
        await made.apply(plan)
        assert not await made.probe_tcp(plan.namespace, "127.0.0.1", 9, 1.0)
        listener = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", plan.namespace, "socat", "TCP-LISTEN:7007,fork", "EXEC:true"
        )
        try:
            async with asyncio.timeout(10):
                while not await made.probe_tcp(plan.namespace, "127.0.0.1", 7007, 1.0):
                    await asyncio.sleep(0.05)
        finally:
            listener.kill()
            await asyncio.wait_for(listener.wait(), 60)
    finally:
        await made.remove(plan.namespace)


async def test_what_is_not_there_is_told(networks: tuple[LabNetworks, str]) -> None:
    made, root = networks
    assert await made.bridges(f"labd-{root}-nothing") == []
    with pytest.raises(NetworkFailed, match="cannot open namespace"):
        await made.open_taps(plan_of(root, "nothing"), ["aaaaaa"])
    with pytest.raises(NetworkFailed, match="is not of this root"):
        await made.remove("labd-somebody-else")


# What a host does for the first time: labd names a namespace, and then `ip netns add` does.
_FIRST_OF_A_HOST = """
import asyncio, subprocess
from labd.drivers.network.linux import netns

async def main():
    assert await netns.create("labd-first")
    subprocess.run(["ip", "netns", "add", "other"], check=True)
    await netns.remove("labd-first")
    assert netns.names("") == ["other"], netns.names("")
    await netns.remove("other")

asyncio.run(main())
"""


def test_a_first_namespace_of_somebody_else_hides_none_of_labds() -> None:
    hidden = f"mount -t tmpfs none {FOLDER.parent} && exec {sys.executable} -c '{_FIRST_OF_A_HOST}'"
    subprocess.run(["unshare", "--mount", "sh", "-c", hidden], check=True)


async def test_a_namespace_that_many_remove_at_one_time_is_gone(
    networks: tuple[LabNetworks, str],
) -> None:
    made, root = networks
    for _ in range(20):
        plan = plan_of(root, "one")
        await made.apply(plan)
        await asyncio.gather(*(made.remove(plan.namespace) for _ in range(6)))
        assert not (FOLDER / plan.namespace).exists()
