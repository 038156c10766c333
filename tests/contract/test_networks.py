"""What the engine may rely on in networks and wires: the fakes, and the kernel."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from labd.drivers.network.linux import LabCaptures, LabLinks, LabNetworks
from labd.drivers.network.linux.plan import plan
from labd.drivers.network.port import Captures, Links, Networks
from labd.host.commands import run
from labd.model.errors import InputError, NetworkFailed
from labd.model.impairment import Impairment
from labd.model.network import LabNetworkPlan
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec
from tests.fakes.networks import FakeCaptures, FakeLinks, FakeNetworks

KEYS = {"a": "aaaaaa", "b": "bbbbbb"}
SLOW = Impairment(rate=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One host."""

    networks: Networks
    links: Links
    captures: Captures
    root: str

    def plan(self, *networks: str, sends: Impairment | None = None) -> LabNetworkPlan:
        """Return the plan of a lab whose two nodes are in each network."""
        spec = LabSpec(
            template="t",
            networks=tuple(NetworkSpec(name=name, link=name == "wan") for name in networks),
            nodes=tuple(
                NodeSpec(
                    name=node,
                    nics=tuple(
                        NicSpec(name=name, network=name, mac="", sends=sends or Impairment())
                        for name in networks
                    ),
                )
                for node in KEYS
            ),
        )
        return plan(spec, "lab1", self.root, KEYS)


@pytest.fixture(params=["fake", "kernel"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    if request.param == "fake":
        networks = FakeNetworks()
        links, captures = FakeLinks(networks), FakeCaptures()
        yield Ground(networks=networks, links=links, captures=captures, root="0badcafe")
        assert await networks.namespaces() == []
        return
    root = secrets.token_hex(4)
    made = LabNetworks(root)
    yield Ground(networks=made, links=LabLinks(), captures=LabCaptures(), root=root)
    left = await made.namespaces()
    for namespace in left:
        await made.remove(namespace)
    assert left == []


def close(taps: dict[str, dict[str, int]]) -> None:
    for fds in taps.values():
        for fd in fds.values():
            os.close(fd)


async def test_bridges_are_as_planned(ground: Ground) -> None:
    networks = ground.networks
    both = ground.plan("lan", "wan")
    await networks.apply(both)
    await networks.apply(both)
    assert await networks.bridges(both.namespace) == ["br-lan", "br-wan"]
    await networks.apply(ground.plan("lan"))
    assert await networks.bridges(both.namespace) == ["br-lan"]
    assert await networks.namespaces() == [both.namespace]
    await networks.remove(both.namespace)
    await networks.remove(both.namespace)
    assert await networks.bridges(both.namespace) == []


async def test_taps_are_the_callers_and_go_with_their_descriptors(ground: Ground) -> None:
    wanted = ground.plan("lan", "wan")
    await ground.networks.apply(wanted)
    taps = await ground.networks.open_taps(wanted, ["aaaaaa"])
    assert {key: sorted(fds) for key, fds in taps.items()} == {"aaaaaa": ["n0", "n1"]}
    close(taps)
    again = await ground.networks.open_taps(wanted, ["aaaaaa", "bbbbbb"])
    await ground.networks.unplug(wanted.namespace)
    await ground.networks.unplug(wanted.namespace)
    fresh = await ground.networks.open_taps(wanted, ["aaaaaa", "bbbbbb"])
    close(again)
    close(fresh)
    await ground.networks.remove(wanted.namespace)


async def test_taps_without_their_ground(ground: Ground) -> None:
    wanted = ground.plan("lan")
    with pytest.raises(NetworkFailed):
        await ground.networks.open_taps(wanted, ["aaaaaa"])
    await ground.networks.apply(replace(wanted, bridges=(), ports=()))
    tap = next(port.tap for port in wanted.ports if port.key == "aaaaaa")
    with pytest.raises(NetworkFailed, match=f"tap {tap}: there is no bridge br-lan") as caught:
        await ground.networks.open_taps(wanted, ["aaaaaa"])
    assert caught.value.details["errno"] == errno.ENODEV
    assert await ground.networks.open_taps(wanted, []) == {}
    await ground.networks.unplug(wanted.namespace)
    await ground.networks.remove(wanted.namespace)


async def test_impairments_come_and_go(ground: Ground) -> None:
    wanted = ground.plan("lan", "wan", sends=SLOW)
    await ground.links.apply(wanted.namespace, wanted.shapes)  # there is no ground yet
    await ground.networks.apply(wanted)
    await ground.links.apply(wanted.namespace, wanted.shapes)  # nor taps
    taps = await ground.networks.open_taps(wanted, KEYS.values())
    for shapes in (wanted.shapes, wanted.shapes, wanted.shapes[:1], (), wanted.shapes):
        await ground.links.apply(wanted.namespace, shapes)
    close(taps)
    await ground.links.apply(wanted.namespace, wanted.shapes)
    await ground.networks.remove(wanted.namespace)


async def test_a_lab_that_is_started_again_is_impaired_again() -> None:
    root = secrets.token_hex(4)
    networks, links = LabNetworks(root), LabLinks()
    ground = Ground(networks=networks, links=links, captures=LabCaptures(), root=root)
    wanted = ground.plan("lan", "wan", sends=SLOW)
    seen = []
    for _ in range(2):  # the second time all has the same names and indexes again
        await networks.apply(wanted)
        taps = await networks.open_taps(wanted, KEYS.values())
        await links.apply(wanted.namespace, wanted.shapes)
        done = await run(["tc", "-n", wanted.namespace, "qdisc"])
        seen.append(sorted(line for line in done.stdout.splitlines() if b" tbf " in line))
        close(taps)
        await networks.remove(wanted.namespace)
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(wanted.shapes) == 4


async def test_a_rate_can_be_had_everywhere(ground: Ground) -> None:
    await ground.links.check([SLOW, Impairment()])
    await ground.links.check([])


async def test_a_bad_filter_is_told(ground: Ground) -> None:
    wanted = ground.plan("lan")
    await ground.networks.apply(wanted)
    with pytest.raises(InputError, match="filter 'bad'"):
        await ground.captures.open(wanted.namespace, "br-lan", "w/lan", "bad", 0)
    capture = await ground.captures.open(wanted.namespace, "br-lan", "w/lan", "", 0)
    assert await capture.read()
    ground.captures.end_all(wanted.namespace, "it is down")
    while await capture.read():
        pass
    _, told = capture.end()
    assert (told.dropped, told.reason) == (0, "it is down")
    await ground.networks.remove(wanted.namespace)
