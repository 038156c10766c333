"""What the engine makes of leases, of servers that end, and of what nodes say they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.model.errors import NetworkFailed, NotFound
from labd.model.names import NodeRef
from labd.model.records import OperationKind
from labd.model.serving import (
    DhcpSpec,
    DnsSpec,
    GuestInterface,
    Lease,
    Neighbour,
    ServerState,
)
from labd.model.specs import LabSpec, NetworkSpec, NicSpec
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

K = OperationKind
MACS = {name: f"02:00:00:00:00:0{index}" for index, name in enumerate("abc", start=1)}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


def served() -> LabSpec:
    nodes = (
        node(name, nics=(NicSpec(name="eth0", network="lan", mac=mac, dhcp=True),))
        for name, mac in MACS.items()
    )
    lan = NetworkSpec(
        name="lan",
        subnet="10.0.0.0/24",
        dhcp=DhcpSpec(first="10.0.0.100", last="10.0.0.199"),
        dns=DnsSpec(),
    )
    return replace(spec(*nodes), networks=(lan,))


async def namespace(home: FakeDaemon) -> str:
    return f"labd-fake-{(await home.lab()).key}"


async def until_told(home: FakeDaemon, after: int, *kinds: str) -> list[tuple[str, str, object]]:
    """Return (kind, node, address) of the events after a seq, as soon as there are those kinds."""
    async with asyncio.timeout(LIMIT):
        while True:
            events = [event.draft for event in await home.inventory.events(after, 1000)]
            found = [h for h in events if h.type.startswith(("network.lease", "network.server"))]
            if sorted(h.type.removeprefix("network.") for h in found) == sorted(kinds):
                return [
                    (h.type.removeprefix("network."), h.node, h.data.get("address")) for h in found
                ]
            await asyncio.sleep(0.01)


async def test_leases_are_told_once_and_forgotten_with_the_lab(home: FakeDaemon) -> None:
    await home.up(served())
    space, seq = await namespace(home), await home.seq()
    assert list(home.servers.serving) == [space]
    home.servers.given[space] = [
        Lease(address="10.0.0.100", mac=MACS["a"], name="a"),
        Lease(address="10.0.0.101", mac="02:00:00:00:00:99"),
    ]
    home.servers.happen(space, ServerState.LEASES)
    assert await until_told(home, seq, "lease", "lease") == [
        ("lease", "a", "10.0.0.100"),
        ("lease", "", "10.0.0.101"),
    ]
    seq = await home.seq()
    home.servers.happen(space, ServerState.LEASES)
    home.servers.given[space].pop()
    home.servers.happen(space, ServerState.LEASES)
    assert await until_told(home, seq, "lease-ended") == [("lease-ended", "", "10.0.0.101")]
    seq = await home.seq()
    await home.act(K.DOWN)
    assert await until_told(home, seq, "lease-ended") == [("lease-ended", "a", "10.0.0.100")]
    assert home.servers.serving == {}
    assert await home.inventory.leases("web") == []
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_leases_of_the_time_without_labd_are_told_at_its_start(home: FakeDaemon) -> None:
    await home.up(served())
    space = await namespace(home)
    home.servers.given[space] = [Lease(address="10.0.0.100", mac=MACS["a"], name="a")]
    home.servers.happen(space, ServerState.LEASES)
    await until_told(home, 0, "lease")
    await home.kill_daemon()
    home.servers.given[space] = [Lease(address="10.0.0.102", mac=MACS["b"], name="b")]
    seq = await home.seq()
    await home.start()
    assert await until_told(home, seq, "lease", "lease-ended") == [
        ("lease-ended", "a", "10.0.0.100"),
        ("lease", "b", "10.0.0.102"),
    ]


async def test_a_server_that_ends_is_told(home: FakeDaemon) -> None:
    await home.up(served())
    space, seq = await namespace(home), await home.seq()
    home.servers.happen(space, ServerState.ENDED, "out of memory")
    home.servers.happen(space, ServerState.RESTORED)
    home.servers.happen("labd-fake-gone00", ServerState.ENDED)
    assert [kind for kind, _, _ in await until_told(home, seq, "server-ended", "server-restored")]
    ended = [
        event.draft
        for event in await home.inventory.events(seq, 100)
        if event.draft.type == "network.server-ended"
    ]
    assert [(h.lab, h.data) for h in ended] == [
        ("web", {"server": "dnsmasq", "reason": "out of memory"})
    ]


async def test_a_server_that_does_not_start_leaves_no_lab(home: FakeDaemon) -> None:
    home.servers.fail["apply"] = NetworkFailed("dnsmasq did not start")
    error = await home.fails(home.engine.labs.up("web", served()))
    assert error["message"] == "dnsmasq did not start"
    home.servers.fail.clear()
    await home.check_nothing()


async def test_a_program_that_is_missing_is_told_before_anything_changes(home: FakeDaemon) -> None:
    home.servers.fail["check"] = NetworkFailed("dnsmasq is not found")
    with pytest.raises(NetworkFailed):
        await home.engine.labs.up("web", served())
    await home.check_nothing()


async def test_the_agent_is_asked_first_then_leases_then_neighbours(home: FakeDaemon) -> None:
    await home.up(served())
    space = await namespace(home)
    keys = {name: (await home.engine.console.node(NodeRef("web", name))).key for name in MACS}
    home.interfaces.told[keys["a"]] = [
        GuestInterface(name="x", mac=MACS["a"], addresses=("10.0.0.7", "fd00::7"))
    ]
    home.interfaces.hangs |= {keys["b"], keys["c"]}
    home.servers.given[space] = [
        Lease(address="10.0.0.100", mac=MACS["a"]),
        Lease(address="10.0.0.101", mac=MACS["b"]),
    ]
    home.servers.happen(space, ServerState.LEASES)
    await until_told(home, 0, "lease", "lease")
    home.servers.seen[space] = [
        Neighbour(address="10.0.0.101", mac=MACS["b"], bridge="br-lan"),
        Neighbour(address="10.0.0.55", mac=MACS["c"], bridge="br-lan"),
        Neighbour(address="fe80::55", mac=MACS["c"], bridge="br-lan"),
    ]
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await home.engine.addresses.of("web")
    assert loop.time() - began < 1.8, "guests that hang are waited for at one time"
    assert [(item.node, item.nic, item.address, str(item.source)) for item in found] == [
        ("a", "eth0", "10.0.0.7", "agent"),
        ("a", "eth0", "fd00::7", "agent"),
        ("b", "eth0", "10.0.0.101", "lease"),
        ("c", "eth0", "10.0.0.55", "neighbour"),
    ]
    home.dialer.listening.add(("10.0.0.101", 22))
    (await home.engine.connect.to_node(NodeRef("web", "b"), 22)).close()
    await home.act(K.DOWN)
    assert await home.engine.addresses.of("web") == []
    with pytest.raises(NotFound):
        await home.engine.addresses.of("other")


async def test_addresses_are_written_after_a_fault(home: FakeDaemon) -> None:
    await home.up(served())
    seq = await home.seq()
    home.servers.given[await namespace(home)] = [
        Lease(mac=MACS["a"], address="10.0.0.101", name="a")
    ]
    home.crash.faults["leases"] = 1
    home.servers.happen(await namespace(home), ServerState.LEASES)
    assert await until_told(home, seq, "lease") == [("lease", "a", "10.0.0.101")]
