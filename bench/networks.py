"""The networks of a lab, by labd's adapter and by a bare script that sends the same requests."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator

from pyroute2 import IPRoute

from bench.result import Result, median
from labd.drivers.network.linux import LabNetworks, netns
from labd.drivers.network.linux.plan import plan
from labd.model.network import LabNetworkPlan
from labd.model.specs import LabSpec, NetworkSpec

COUNT = 20
MAX_RATIO = 1.5
_LEAST = 5  # runs: one takes some 50 ms


def run(_: list[int], repeat: int) -> Iterator[Result]:
    """Give `network_apply`: milliseconds until 20 bridges with addresses are up.

    Each run is in a new namespace. All are removed at the end only: the kernel takes a namespace
    down in the background, and holds the lock that whoever makes a bridge waits for.
    """
    root = secrets.token_hex(4)
    spec = LabSpec(
        template="bench",
        networks=tuple(
            NetworkSpec(name=f"n{index}", subnet=f"10.9.{index}.0/24") for index in range(COUNT)
        ),
    )
    times: dict[str, list[float]] = {"labd": [], "bare": []}
    try:
        for turn in range(max(repeat, _LEAST)):
            wanted = plan(spec, f"lab{turn:03}", root, {})
            times["labd"].append(asyncio.run(_labd(root, wanted)))
            times["bare"].append(asyncio.run(_bare(f"labd-{root}-bare{turn}", wanted)))
    finally:
        asyncio.run(_remove(root))
    yield Result(
        name="network_apply",
        n=COUNT,
        unit="ms",
        labd=median(times["labd"]),
        baseline=median(times["bare"]),
        max_ratio=MAX_RATIO,
    )


async def _labd(root: str, wanted: LabNetworkPlan) -> float:
    began = time.perf_counter()
    await LabNetworks(root).apply(wanted)
    return (time.perf_counter() - began) * 1000


async def _bare(namespace: str, wanted: LabNetworkPlan) -> float:
    began = time.perf_counter()
    await netns.create(namespace)
    await netns.inside(namespace, lambda: _script(wanted))
    return (time.perf_counter() - began) * 1000


async def _remove(root: str) -> None:
    for namespace in netns.names(f"labd-{root}-"):
        await netns.remove(namespace)


def _script(wanted: LabNetworkPlan) -> None:
    """Send what labd sends, and nothing else."""
    with IPRoute() as route:
        route.link("set", index=1, ifalias="bench", state="up")
        for bridge in wanted.bridges:
            route.link(
                "add",
                ifname=bridge.bridge,
                kind="bridge",
                mtu=bridge.mtu,
                state="up",
                br_stp_state=0,
                br_forward_delay=0,
                br_mcast_snooping=0,
            )
            route.link("set", ifname=bridge.bridge, ifalias="bench")
        indexes = {link.get("ifname"): link["index"] for link in route.get_links()}
        for bridge in wanted.bridges:
            address, _, length = bridge.address.partition("/")
            index = indexes[bridge.bridge]
            route.addr("add", index=index, address=address, prefixlen=int(length))
