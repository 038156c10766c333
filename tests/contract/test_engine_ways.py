"""Ways into labs and published ports: what the engine makes of them, on fakes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.features.publish.service import Refusals
from labd.host.supervision import TaskSupervisor
from labd.model.errors import (
    Busy,
    IllegalTransition,
    InputError,
    LabdError,
    NetworkFailed,
    NotFound,
)
from labd.model.names import NodeRef
from labd.model.publish import Bound
from labd.model.records import OperationKind, Wanted
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec, PublishSpec
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


def nic(*addresses: str) -> NicSpec:
    return NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01", addresses=addresses)


def lab(*publish: PublishSpec, **more: NodeSpec) -> LabSpec:
    a = node("a", nics=(nic("fd00::2/64", "10.0.0.2/24"),), publish=publish)
    made = spec(a, node("b"), *more.values())
    return replace(made, networks=(NetworkSpec(name="lan", subnet="10.0.0.0/24"),))


def ends(way: socket.socket) -> str:
    way.settimeout(60)
    with way:
        return way.recv(100).decode()


# ways


async def test_a_node_is_reached_from_inside_its_lab_ipv4_first(home: FakeDaemon) -> None:
    await home.up(lab())
    namespace = f"labd-fake-{(await home.lab()).key}"
    home.dialer.listening.add(("10.0.0.2", 22))
    assert ends(await home.engine.connect.to_node(NodeRef("web", "a"), 22)) == "10.0.0.2:22"
    assert home.dialer.asked == [(namespace, "10.0.0.2", 22)]
    home.dialer.listening.add(("fd00::2", 23))
    assert ends(await home.engine.connect.to_node(NodeRef("web", "a"), 23)) == "fd00::2:23"
    for host in ("a", "A.", "a.lab", "a.web", "a.web.lab", "10.0.0.2"):
        assert ends(await home.engine.connect.to_host("web", host, 22)) == "10.0.0.2:22"
    home.dialer.listening.add(("10.0.0.77", 1))
    assert ends(await home.engine.connect.to_host("web", "10.0.0.77", 1)) == "10.0.0.77:1"


@pytest.mark.parametrize(
    ("host", "port", "kind", "message"),
    [
        ("c", 22, NotFound, "there is no node web/c; known: a, b"),
        ("a", 0, InputError, "port 0 is none: write 1 to 65535"),
        ("10.0.0.3", 65536, InputError, "port 65536 is none: write 1 to 65535"),
        (
            "b",
            22,
            InputError,
            (
                "node web/b has no address, so labd cannot reach it over the network; give a nic "
                "one, or use: lab console web/b"
            ),
        ),
        ("a", 9, NetworkFailed, "cannot reach web/a: 10.0.0.2:9: connection refused"),
        (
            "192.0.2.1",
            22,
            InputError,
            "192.0.2.1 is in no subnet of lab web; its subnets: 10.0.0.0/24, fd00::/64",
        ),
        (
            "127.0.0.1",
            22,
            InputError,
            "127.0.0.1 is in no subnet of lab web; its subnets: 10.0.0.0/24, fd00::/64",
        ),
        (
            "example.org",
            22,
            InputError,
            (
                "'example.org' is neither a node of lab web nor an address; write the node's "
                "name, like web"
            ),
        ),
    ],
)
async def test_a_way_that_is_none_is_told(
    home: FakeDaemon, host: str, port: int, kind: type[LabdError], message: str
) -> None:
    await home.up(lab())
    with pytest.raises(kind) as caught:
        await home.engine.connect.to_host("web", host, port)
    assert caught.value.message == message


@pytest.mark.parametrize(("kind", "state"), [(K.STOP, "stopped"), (K.PAUSE, "paused")])
async def test_a_node_that_does_not_run_is_not_reached(
    home: FakeDaemon, kind: K, state: str
) -> None:
    await home.up(lab())
    await home.act(kind, "a")
    with pytest.raises(IllegalTransition) as caught:
        await home.engine.connect.to_node(NodeRef("web", "a"), 22)
    assert caught.value.message == (
        f"cannot reach web/a: it is {state}, and must be running or ready"
    )
    with pytest.raises(NotFound, match="there is no lab other"):
        await home.engine.connect.to_node(NodeRef("other", "a"), 22)


async def test_guests_get_the_labs_key_and_the_key_goes_with_the_lab(home: FakeDaemon) -> None:
    await home.up(lab())
    pair = await home.engine.connect.key("web")
    record = await home.engine.console.node(NodeRef("web", "a"))
    assert record.machine is not None
    assert f"authorized-key {pair.public}\n".encode() in record.machine.config
    await home.act(K.DOWN)
    assert await home.engine.connect.key("web") == pair
    await home.act(K.DESTROY)
    assert home.keys.pairs == {}
    with pytest.raises(NotFound):
        await home.engine.connect.key("web")


async def test_keys_of_no_lab_are_swept(home: FakeDaemon) -> None:
    await home.keys.ensure("gone12")
    await home.restart()
    assert home.keys.pairs == {}


# published ports

SSH = PublishSpec(port=22)
WWW = PublishSpec(port=80, host_port=8080)


async def published(home: FakeDaemon) -> dict[int, int]:
    view = await home.engine.overview.get("web")
    return {item.spec.port: item.chosen for item in view.published}


async def test_ports_are_open_while_the_lab_is_up(home: FakeDaemon) -> None:
    seq = await home.seq()
    await home.up(lab(SSH, WWW))
    assert await published(home) == {22: 40_000, 80: 8080}
    assert home.published_ports.open_ports() == {40_000, 8080}
    story = await home.story(seq)
    assert story.count("node.published a") == 2
    assert story.index("node.published a") < story.index("node.starting a")
    home.dialer.listening.add(("10.0.0.2", 80))
    door = home.published_ports.taken["127.0.0.1", 8080]
    assert door is not None
    assert ends(await door.dial()) == "10.0.0.2:80"
    seq = await home.seq()
    await home.up(lab(SSH, WWW))
    assert "node.published a" not in await home.story(seq), "nothing is told twice"
    await home.act(K.DOWN)
    assert home.published_ports.open_ports() == set()
    assert await published(home) == {}
    assert (await home.story(seq)).count("node.unpublished a") == 2
    await home.act(K.START)
    assert set(await published(home)) == {22, 80}
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_a_port_in_use_refuses_up_and_start_and_changes_nothing(home: FakeDaemon) -> None:
    home.published_ports.taken["127.0.0.1", 8080] = None
    seq = await home.seq()
    words = (
        "node a: publish 127.0.0.1:8080:80: port 127.0.0.1:8080 of the host is in use; choose "
        "another one, or 0 to have one chosen"
    )
    with pytest.raises(InputError) as caught:
        await home.engine.labs.up("web", lab(SSH, WWW))
    assert caught.value.message == words
    assert await home.seq() == seq
    await home.check_nothing()
    del home.published_ports.taken["127.0.0.1", 8080]
    await home.up(lab(SSH, WWW))
    with pytest.raises(InputError, match="is in use"):
        await home.engine.labs.up("other", lab(WWW))
    await home.act(K.DOWN)
    home.published_ports.taken["127.0.0.1", 8080] = None
    with pytest.raises(InputError) as caught:
        await home.engine.labs.act(K.START, "web")
    assert caught.value.message == words
    assert home.published_ports.open_ports() == set()


async def test_what_is_refused_later_gives_the_ports_back(home: FakeDaemon) -> None:
    home.memory = 0
    with pytest.raises(LabdError, match="memory"):
        await home.engine.labs.up("web", lab(SSH))
    assert home.published_ports.open_ports() == set()
    home.memory = 1 << 40
    home.networks.fail["open_taps"] = NetworkFailed("no more taps")
    await home.fails(home.engine.labs.up("web", lab(SSH)))
    await home.check_nothing()


async def test_an_edit_changes_ports_and_leaves_the_node_alone(home: FakeDaemon) -> None:
    await home.up(lab(SSH))
    before, seq = await home.engine.console.node(NodeRef("web", "a")), await home.seq()
    await home.up(lab(WWW))
    assert await published(home) == {80: 8080}
    assert home.published_ports.open_ports() == {8080}
    assert (await home.engine.console.node(NodeRef("web", "a"))).process == before.process
    story = await home.story(seq)
    assert "node.unpublished a" in story
    assert "node.published a" in story


async def test_the_next_daemon_takes_the_same_ports(home: FakeDaemon) -> None:
    await home.up(lab(SSH, WWW))
    before = await published(home)
    await home.restart()
    assert await published(home) == before
    assert home.published_ports.open_ports() == set(before.values())
    await home.kill_daemon()
    home.published_ports.daemon_ended()
    home.published_ports.taken |= {("127.0.0.1", port): None for port in before.values()}
    seq = await home.seq()
    await home.start()
    after = await published(home)
    assert set(after) == {22}
    assert after[22] != before[22]
    events = [e for e in await home.inventory.events(seq, 100) if "publish" in e.draft.type]
    told = {str(e.draft.type): e.draft.data for e in events}
    assert told["node.published"]["host_port"] == after[22]
    assert "is in use" in str(told["node.unpublished"]["reason"])
    del home.published_ports.taken["127.0.0.1", 8080]
    await home.up(lab(SSH, WWW))
    assert await published(home) == {**after, 80: 8080}


async def _die_at(root: Path, at: int, kind: OperationKind | None) -> bool:
    """Kill the daemon at a call of `up` or an action; tell whether there was such a call."""
    async with engine_over_fakes(root) as it:
        if kind is not None:
            await it.up(lab(SSH, WWW))
        it.crash.at = len(it.crash.calls) + at
        try:
            asked = (
                it.engine.labs.up("web", lab(SSH))
                if kind is None
                else it.engine.labs.act(kind, "web")
            )
            await it.ended_or_dead((await asked).id)
        except LabdError:
            assert it.crash.dead.is_set()
        died = it.crash.dead.is_set()
        await it.restart()
        await it.check()
        record = await it.inventory.lab("web")
        wanted = set() if record is None or record.wanted is not Wanted.RUNNING else {22}
        if kind is not None and wanted:
            wanted |= {80}
        found = {} if record is None else await published(it)
        assert set(found) == wanted
        assert it.published_ports.open_ports() == set(found.values())
        if record is not None:
            await it.act(K.DESTROY)
        await it.check_nothing()
    return died


@pytest.mark.parametrize("kind", [None, K.DOWN, K.DESTROY])
async def test_a_daemon_that_dies_anywhere_leaves_the_ports_that_are_wanted(
    tmp_path: Path, kind: OperationKind | None
) -> None:
    at = 1
    while await _die_at(tmp_path / str(at), at, kind):
        at += 1
    assert at > 5


async def test_a_busy_lab_is_left_alone(home: FakeDaemon) -> None:
    operation = await home.engine.labs.up("web", lab(SSH))
    with pytest.raises(Busy):
        await home.engine.labs.up("web", lab(SSH, WWW))
    assert 8080 not in home.published_ports.open_ports()
    await home.engine.operations.wait(operation.id, 5)


async def test_ports_are_there_again_before_an_operation_goes_on(home: FakeDaemon) -> None:
    await home.up(lab(SSH))
    before = await published(home)
    await home.act(K.PAUSE, "a")
    home.crash.name = "resume"
    await home.engine.labs.act(K.RESUME, "web", ["a"])
    await home.death()
    await home.restart()
    await home.idle()
    assert await published(home) == before
    assert home.published_ports.open_ports() == set(before.values())


# refused connections


async def refusals(home: FakeDaemon, number: int) -> list[dict[str, object]]:
    """Return the data of the events on refused connections, once they tell of so many."""
    async with asyncio.timeout(60):
        while True:
            found = [
                dict(event.draft.data)
                for event in await home.inventory.events(0, 100_000)
                if event.draft.type == "lab.connections-refused"
            ]
            if sum(int(str(data["count"])) for data in found) >= number:
                return found
            await asyncio.sleep(0.01)


async def test_refused_connections_are_told_at_once_and_do_not_flood(home: FakeDaemon) -> None:
    await home.up(lab(SSH, WWW))
    port = home.published_ports.taken["127.0.0.1", 8080]
    assert port is not None
    for _ in range(1000):
        port.refused(Bound.PORT)
    assert await refusals(home, 1000) == [{"count": 1000, "bounds": ["port"], "nodes": ["a"]}]
    # What is refused now is told later, and a lab that is no more is told of no more.
    port.refused(Bound.HOST)
    await home.act(K.DESTROY)
    assert len(await refusals(home, 1000)) == 1


async def test_what_is_refused_later_is_counted_and_told_together(home: FakeDaemon) -> None:
    await home.up(lab(SSH))
    told = Refusals(home.inventory, TaskSupervisor(), every=0.2)
    events: list[dict[str, object]] = []
    for round_ in range(1, 4):
        for number in range(500):
            told.count(NodeRef("web", f"n{number % 20:02}"), Bound.LAB)
        told.count(NodeRef("web", "a"), Bound.PORT)
        events = await refusals(home, 501 * round_)
        assert len(events) == round_
    assert [event["count"] for event in events] == [501] * 3
    assert events[0]["bounds"] == ["lab", "port"]
    assert events[0]["nodes"] == ["a", *(f"n{number:02}" for number in range(9))]
    told.count(NodeRef("gone", "a"), Bound.PORT)
    await told.close()
