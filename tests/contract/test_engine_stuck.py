"""A QEMU that is killed and does not end holds up nothing but itself, and is not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.errors import LabdError
from labd.model.names import NodeRef
from labd.model.records import OperationKind
from labd.model.states import NodeState
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

K = OperationKind


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def stuck(home: FakeDaemon, name: str, lab: str = "web") -> str:
    """Have the process of a node not end when it is killed; return its key."""
    key = await home.key(name, lab)
    home.host.stuck.add(key)
    return key


async def test_destroy_ends_the_others_and_can_be_done_again(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b"), node("c")))
    await home.up(spec(node("a")), "other")
    key, seq = await stuck(home, "b"), await home.seq()
    for _ in range(2):
        error = await home.fails(home.engine.labs.act(K.DESTROY, "web"))
        assert error["code"] == "node_stuck"
        assert "was killed and has not ended" in str(error["message"])
        # The lab is not gone, nor is it said to be; what could be ended has been.
        assert str((await home.lab()).state) == "destroying"
        assert set(home.host.machines) == {key, await home.key("a", "other")}
        assert await home.states() == {"a": "stopped", "b": "stopping", "c": "stopped"}
        found = await home.engine.console.node(NodeRef("web", "b"))
        assert "has not ended" in found.reason
    assert (await home.story(seq)).count("node.stuck b") == 1
    assert "lab.destroyed" not in await home.story(seq)
    await home.ok(home.engine.labs.act(K.DESTROY, "other"))
    home.host.let_end(key)
    await home.until("b", NodeState.STOPPED)
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_down_stops_the_others_and_what_ends_late_is_stopped(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    key, seq = await stuck(home, "b"), await home.seq()
    assert (await home.fails(home.engine.labs.act(K.DOWN, "web")))["code"] == "node_stuck"
    assert await home.states() == {"a": "stopped", "b": "stopping"}
    assert str((await home.lab()).state) == "stopping"
    # It cannot be started over what still has its disks.
    assert (await home.fails(home.engine.labs.act(K.START, "web")))["code"] == "node_stuck"
    assert (await home.fails(home.engine.labs.act(K.DOWN, "web")))["code"] == "node_stuck"
    home.host.let_end(key)
    await home.until("b", NodeState.STOPPED)
    assert str((await home.lab()).state) == "stopped"
    assert (await home.story(seq)).count("node.stuck b") == 1
    await home.act(K.START)
    assert await home.states() == {"a": "ready", "b": "ready"}


@pytest.mark.parametrize("verb", [K.DOWN, K.DESTROY])
async def test_the_next_daemon_goes_on_with_it(home: FakeDaemon, verb: OperationKind) -> None:
    await home.up(spec(node("a"), node("b")))
    key = await stuck(home, "b")
    assert (await home.fails(home.engine.labs.act(verb, "web")))["code"] == "node_stuck"
    found = await home.restart()
    assert found.adopted == 1
    assert (await home.states())["b"] == "stopping"
    assert (await home.fails(home.engine.labs.act(verb, "web")))["code"] == "node_stuck"
    await home.restart()
    home.host.let_end(key)
    await home.until("b", NodeState.STOPPED)
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_one_that_ends_while_no_daemon_runs(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    key = await stuck(home, "b")
    assert (await home.fails(home.engine.labs.act(K.DOWN, "web")))["code"] == "node_stuck"
    await home.kill_daemon()
    home.host.let_end(key)
    await home.start()
    assert await home.states() == {"a": "stopped", "b": "stopped"}
    assert str((await home.lab()).state) == "stopped"


async def test_a_start_that_is_taken_back(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    one = node("a")
    asked = await home.engine.labs.up("web", spec(one, node("b")), timeout=0.3)
    async with asyncio.timeout(LIMIT):
        while not home.host.machines:
            await asyncio.sleep(0.001)
    key = next(iter(home.host.machines))
    home.host.stuck.add(key)
    done = await home.engine.operations.wait(asked.id, LIMIT)
    assert done.error is not None
    assert done.error["code"] == "guest_failed", "why it failed, not why it cannot be undone"
    assert set(home.host.machines) == {key}
    assert (await home.fails(home.engine.labs.act(K.DESTROY, "web")))["code"] == "node_stuck"
    home.host.let_end(key)
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_a_daemon_that_finds_a_half_start_it_cannot_undo(home: FakeDaemon) -> None:
    home.crash.name = "resume"  # between the launch and the word that its CPUs run
    asked = await home.engine.labs.up("web", spec(node("a")))
    await home.death()
    (key,) = home.host.machines
    home.host.stuck.add(key)
    await home.restart()
    assert (await home.states())["a"] == "stopping"
    done = await home.engine.operations.wait(asked.id, LIMIT)
    assert done.error is not None
    assert done.error["code"] == "node_stuck"
    home.host.let_end(key)
    await home.idle()
    await home.act(K.DESTROY)
    await home.check_nothing()


async def test_all_is_taken_down_though_one_stays(home: FakeDaemon) -> None:
    for name in ("abc", "web", "zoo"):
        await home.up(spec(node("a")), name)
    key = await stuck(home, "a", "abc")
    await home.engine.take_everything_down()
    assert set(home.host.machines) == {key}
    assert str((await home.lab("web")).state) == str((await home.lab("zoo")).state) == "stopped"
    home.host.let_end(key)
    await home.until("a", NodeState.STOPPED, lab="abc")


async def test_a_pool_member_that_stays_keeps_no_lab_from_starting(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    await home.ok(home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
    await home.engine.pools.warm("c", 2)
    await home.filled()
    members = await home.inventory.pool_members()
    home.host.stuck.update(item.key for member in members for item in member.nodes)
    home.memory = 0
    with pytest.raises(LabdError, match="does not fit"):
        await home.engine.labs.up("new", spec(node("a")))
    await home.engine.pools.rest()
    for key in list(home.host.stuck):
        home.host.let_end(key)
    await home.engine.pools.rest()
    assert await home.inventory.pool_members() == []
    await home.engine.pools.cool("c")


async def test_a_class_with_a_lab_that_stays_floods_nobody(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    await home.ok(home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
    students = [Student(name=name) for name in ("ann", "bob")]
    await home.engine.classes.start("x", "c", students, settings={})
    async with asyncio.timeout(LIMIT):
        while not (await home.engine.classes.get("x")).record.told:
            await asyncio.sleep(0.02)
    key, seq = await stuck(home, "a", "x-ann"), await home.seq()
    await home.engine.classes.destroy("x")
    async with asyncio.timeout(LIMIT):
        while "lab.destroyed" not in await home.story(seq):
            await asyncio.sleep(0.02)
    for _ in range(50):
        await home.engine.classes.tick()
        await asyncio.sleep(0.02)
    assert (await home.story(seq)).count("operation.started destroy") == 2
    home.host.let_end(key)
    async with asyncio.timeout(LIMIT):
        while await home.inventory.classes():
            await asyncio.sleep(0.05)
