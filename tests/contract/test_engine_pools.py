"""Warm pools on fakes: what a start takes, what is filled again, and what any death leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from labd.features.warm.service import WarmPoolPlan, plan, require_room
from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.errors import InputError, InUse, LabdError, NoRoom, NotFound
from labd.model.machine import ExecResult, GuestEventKind, RunState
from labd.model.names import NodeRef
from labd.model.pools import MemberState, WarmMember, WarmPoolRecord
from labd.model.records import OperationKind
from labd.model.specs import LabSpec
from labd.model.units import GIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

LAB = spec(node("a"), node("b", "a"))
READY = {"a": "ready", "b": "ready"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        await saved(it)
        yield it


async def saved(home: FakeDaemon, lab: LabSpec = LAB) -> None:
    """Have the lab saved as `c`."""
    await home.up(lab)
    mode = SaveMode.LIVE
    await home.ok(home.engine.checkpoints.save("web", "c", mode=mode, message=""))


async def warm(home: FakeDaemon, size: int = 2) -> list[WarmMember]:
    await home.engine.pools.warm("c", size)
    await home.filled()
    return list((await home.engine.pools.get("c")).members)


async def beside(home: FakeDaemon, *known: WarmMember) -> WarmMember:
    """Return a member that is none of these, as soon as it is ready."""
    keys = {member.key for member in known}
    async with asyncio.timeout(LIMIT):
        while True:
            for member in (await home.engine.pools.get("c")).members:
                if member.key not in keys and member.state is MemberState.READY:
                    return member
            await asyncio.sleep(0.002)


async def fork(home: FakeDaemon, lab: str, **settings: str) -> None:
    (asked,) = await home.engine.checkpoints.fork("c", lab, count=0, settings=settings)
    await home.ok(home.engine.operations.get(asked.id))


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not seen():
            await asyncio.sleep(0.002)


def launches(home: FakeDaemon) -> int:
    return sum(verb == "launch" for verb, _ in home.hypervisor.calls)


async def test_a_start_takes_what_stands_ready(home: FakeDaemon) -> None:
    seq = await home.seq()
    members = await warm(home)
    assert await home.story(seq) == ["pool.set c", "pool.ready c"], "no lab, and no node of one"
    assert [lab.lab.name for lab in [await home.engine.overview.get("web")]] == ["web"]
    assert len(await home.engine.overview.all()) == 1
    for item in members:
        assert {home.host.machines[n.key].state for n in item.nodes} == {RunState.PAUSED}
        assert f"labd-fake-{item.key}" in home.networks.spaces
    await home.check()

    seq, before = await home.seq(), launches(home)
    await fork(home, "copy")
    assert launches(home) == before, "it was launched before anybody asked"
    lab = await home.lab("copy")
    assert lab.key == members[0].key, "the oldest is taken first"
    nodes = {item.name: item for item in members[0].nodes}
    for name in READY:
        found = await home.engine.console.node(NodeRef("copy", name))
        assert (found.key, found.process, found.uid) == (
            nodes[name].key,
            nodes[name].process,
            nodes[name].uid,
        )
        assert home.host.machines[found.key].name == f"copy/{name}"
        assert home.host.machines[found.key].state is RunState.RUNNING
        assert found.starts == 1
        assert found.key in home.snapshots.announced
    assert await home.states("copy") == READY
    story = await home.story(seq)
    assert [line for line in story if line.split()[0] not in {"pool.ready", "operation.progress"}][
        :8
    ] == [
        "operation.started fork",
        "lab.created",
        "node.created a",
        "node.created b",
        "node.starting a",
        "node.starting b",
        "network.up lan",
        "pool.taken c",
    ]
    assert (await home.engine.checkpoints.get("c")).labs == ("copy",)
    await home.filled()
    assert len((await home.engine.pools.get("c")).members) == 2, "it is filled again"
    await home.check()
    # It is a lab like any other.
    await home.ok(home.engine.labs.act(OperationKind.DOWN, "copy", force=True))
    await home.ok(home.engine.labs.act(OperationKind.START, "copy"))
    await home.ok(home.engine.labs.act(OperationKind.DESTROY, "copy", force=True))
    await home.check()


async def test_ends_of_strangers_are_not_kept_where_there_is_no_pool(home: FakeDaemon) -> None:
    home.hypervisor._known.add("nobody")
    home.host.emit("nobody", GuestEventKind.EXITED)
    await home.engine._watcher.drain()
    await until(lambda: not home.engine.pools._spoilt)


async def test_a_taken_fork_is_told_what_it_is(tmp_path: Path) -> None:
    ran: list[tuple[str, ...]] = []
    async with engine_over_fakes(tmp_path) as home:

        def result(argv: Sequence[str]) -> ExecResult:
            ran.append(tuple(argv))
            return ExecResult(status=0, stdout=b"", stderr=b"")

        home.host.opens_agent, home.host.exec_result = True, result
        await saved(home, spec(node("a", on_fork=(("hostname", "x"),))))
        (member,) = await warm(home, 1)
        assert ran == [], "not before it has a name"
        assert home.snapshots.clocks == []
        await fork(home, "copy", student="ann")
        assert ran == [("env", "LABD_STUDENT=ann", "LABD_LAB=copy", "hostname", "x")]
        key = member.nodes[0].key
        assert home.snapshots.clocks == [key]
        assert home.snapshots.authorized[key] == {
            "root": (home.keys.pairs[(await home.lab("copy")).key].public,)
        }


async def test_classes_and_more_forks_than_stand_ready(home: FakeDaemon) -> None:
    members = await warm(home, 1)
    before = launches(home)
    api = home.engine.checkpoints
    for asked in await api.fork("c", "k", count=2, settings={}):
        await home.ok(home.engine.operations.get(asked.id))
    assert {await home.key("a", "k-1"), await home.key("a", "k-2")} & {
        item.key for item in members[0].nodes
    }
    assert launches(home) - before >= 2, "the other one was launched"
    await home.filled()
    (member,) = (await home.engine.pools.get("c")).members
    await home.engine.classes.start("class", "c", [Student(name="ann")], settings={})
    async with asyncio.timeout(LIMIT):
        while not (await home.engine.classes.get("class")).record.told:
            await asyncio.sleep(0.01)
    assert (await home.lab("class-ann")).key == member.key
    await home.check()


async def test_a_fork_that_should_be_another_machine_is_made_anew(home: FakeDaemon) -> None:
    (member,) = await warm(home, 1)
    dark = tuple(replace(nic, down=True) for nic in LAB.nodes[0].nics)
    other = replace(LAB, nodes=(replace(LAB.nodes[0], nics=dark), LAB.nodes[1]))
    (asked,) = await home.engine.checkpoints.fork("c", "x", count=0, settings={}, spec=other)
    await home.ok(home.engine.operations.get(asked.id))
    assert (await home.lab("x")).key != member.key, "members have the NICs that were saved"
    # A member that was loaded, and is not what it would be by now.
    changed = tuple(
        replace(item, machine=item.machine and replace(item.machine, config=b"old"))
        for item in member.nodes
    )
    async with home.inventory.transaction() as tx:
        await tx.put_pool_member(replace(member, nodes=changed))
    await fork(home, "y")
    assert (await home.lab("y")).key == member.key
    assert await home.states("y") == READY
    pids = {item.process for item in member.nodes}
    assert not pids & {machine.process for machine in home.host.machines.values()}
    await home.check()


async def test_a_member_that_dies_is_replaced_and_never_taken(home: FakeDaemon) -> None:
    first, second = await warm(home)
    home.host.die(first.nodes[0].key)
    await until(lambda: first.nodes[1].key not in home.host.machines)
    other = await beside(home, first, second)
    keys = [member.key for member in (await home.engine.pools.get("c")).members]
    assert sorted(keys) == sorted([second.key, other.key])
    # One that does not answer is left out, and not made anew: the host may only be busy.
    home.host.hang(second.nodes[0].key)
    with suppress(LabdError):
        await home.hypervisor.query(second.nodes[0].key)
    await home.settled()
    await fork(home, "busy")
    assert (await home.lab("busy")).key == other.key
    home.host.recover(second.nodes[0].key)
    await home.filled()
    # One that nobody has noticed yet.
    home.host.daemon = None
    home.host.die(second.nodes[0].key)
    home.host.daemon = home.hypervisor
    await fork(home, "copy")
    assert (await home.lab("copy")).key == second.key
    assert await home.states("copy") == READY
    await home.check()


async def test_sizes(home: FakeDaemon) -> None:
    three = await warm(home, 3)
    one = await warm(home, 1)
    assert [item.key for item in one] == [three[0].key], "the newest go first"
    assert len(await warm(home, 2)) == 2
    seq = await home.seq()
    await home.engine.pools.warm("c", 2)
    assert await home.seq() == seq, "the same size again changes nothing"
    with pytest.raises(InUse, match="forks of it are kept ready; `lab pool cool c` ends its pool"):
        await home.engine.checkpoints.remove("c")
    await home.engine.pools.cool("c")
    assert await home.story(seq) == ["pool.cooled c"]
    assert await home.inventory.pool_members() == []
    with pytest.raises(NotFound, match="there is no pool of checkpoint c"):
        await home.engine.pools.cool("c")
    await home.engine.checkpoints.remove("c")
    await home.ok(home.engine.labs.act(OperationKind.DESTROY, "web", force=True))
    await home.check_nothing()


async def test_what_is_refused_changes_nothing(home: FakeDaemon) -> None:
    seq = await home.seq()
    api = home.engine.pools
    for size in (0, -1, 501, 1 << 40):
        with pytest.raises(InputError, match=f"1 to 500 forks ready, not {size}"):
            await api.warm("c", size)
    with pytest.raises(NotFound, match="no checkpoint d"):
        await api.warm("d", 1)
    with pytest.raises(NotFound, match="no pool"):
        await api.get("c")
    with pytest.raises(NoRoom, match=r"needs 1000 user ids, and a root has 960"):
        await api.warm("c", 500)
    home.memory = 2 * GIB
    with pytest.raises(NoRoom, match=r"99 more forks of c does not fit: .*, enough for 15; keep"):
        await api.warm("c", 99)
    assert await home.seq() == seq
    assert await api.all() == []


async def test_memory_is_given_back(home: FakeDaemon) -> None:
    members = await warm(home, 3)
    seq = await home.seq()
    home.memory = GIB - 1  # below the host's reserve
    async with asyncio.timeout(LIMIT):
        while not (await home.engine.pools.get("c")).reason:
            await asyncio.sleep(0.002)
    home.memory = 64 * GIB
    view = await home.engine.pools.get("c")
    assert members[0].key in {member.key for member in view.members}, "the newest are given back"
    assert view.reason == "the host is short of memory"
    assert (await home.story(seq))[0] == "pool.given-back c"
    # A lab that would not fit takes the memory of what only stands ready.
    home.memory = GIB + 1
    with pytest.raises(NoRoom, match="lab new does not fit"):
        await home.engine.labs.up("new", LAB)
    async with asyncio.timeout(LIMIT):  # one may be ending at this moment
        while (await home.engine.pools.get("c")).members:
            await asyncio.sleep(0.002)
    home.memory = 64 * GIB
    await home.engine.pools.warm("c", 2)  # who asks again does not wait
    await home.filled()
    assert len((await home.engine.pools.get("c")).members) == 2
    assert await home.engine.pools.release(64 * GIB) == 0, "there is enough"
    assert await home.engine.pools.release(65 * GIB) == 2
    assert await home.engine.pools.relieve() == "", "there is nothing left, nor need"
    assert home.engine.memory_guard.reliefs == [home.engine.pools.relieve], "before a lab is paused"
    await home.engine.pools.cool("c")


async def test_what_cannot_be_made_is_told_once_and_tried_again(home: FakeDaemon) -> None:
    seq = await home.seq()
    home.host.fail_launch = {"*": "no more processes"}
    await home.engine.pools.warm("c", 1)
    async with asyncio.timeout(LIMIT):
        while not (await home.engine.pools.get("c")).reason:
            await asyncio.sleep(0.002)
    assert (await home.engine.pools.get("c")).reason == "no more processes"
    assert await home.story(seq) == ["pool.set c", "pool.failed c"]
    await home.check()
    home.host.fail_launch = {}
    async with asyncio.timeout(10 * LIMIT):  # it waits longer after each try
        while not (await home.engine.pools.get("c")).members:
            await asyncio.sleep(0.01)
    await home.filled()
    assert (await home.engine.pools.get("c")).reason == ""


async def test_pools_outlive_the_daemon_and_not_the_host(home: FakeDaemon) -> None:
    members = await warm(home)
    await home.restart()
    await home.check()
    view = await home.engine.pools.get("c")
    assert [item.key for item in view.members] == [item.key for item in members], "adopted"
    before = launches(home)
    await fork(home, "copy")
    assert launches(home) == before
    assert await home.states("copy") == READY
    await home.filled()
    # The host is switched off and on.
    await home.kill_daemon()
    old = {member.key for member in await home.inventory.pool_members()}
    home.host.machines.clear()
    home.networks.spaces.clear()
    await home.start()
    await home.filled()
    view = await home.engine.pools.get("c")
    assert len(view.members) == 2
    assert not old & {member.key for member in view.members}
    # `labd serve --down` ends the forks and keeps the wish.
    await home.engine.pools.rest()
    assert await home.inventory.pool_members() == []
    await home.restart()
    await home.filled()
    assert len((await home.engine.pools.get("c")).members) == 2


async def die(
    tmp_path: Path, at: int, act: Callable[[FakeDaemon], object], *, before: bool, size: int
) -> bool:
    """Let a daemon die at its call number `at` of `act`; tell whether it did."""
    async with engine_over_fakes(tmp_path) as home:
        await saved(home)
        if size:
            await warm(home, size)
        home.crash.calls.clear()
        home.crash.at, home.crash.before = at, before
        try:
            async with asyncio.timeout(LIMIT):
                await act(home)  # type: ignore[misc]
        except LabdError:
            assert home.crash.dead.is_set()
        died, calls = home.crash.dead.is_set(), home.crash.calls[-2:]
        await home.restart()
        await home.idle()
        await home.filled()
        for view in await home.engine.pools.all():
            assert len(view.members) == view.record.size, (calls, view)
            assert not view.reason
        if await home.inventory.lab("copy") is not None:
            assert await home.states("copy") == READY, calls
        assert await home.states("web") == READY
        await home.check()
        await fork(home, "another")
        assert await home.states("another") == READY
    return died


async def fill(home: FakeDaemon) -> None:
    """Make a pool, until it is full or the daemon is dead."""
    await home.engine.pools.warm("c", 1)
    while not home.crash.dead.is_set():
        if any(m.state is MemberState.READY for m in await home.inventory.pool_members()):
            return
        await asyncio.sleep(0.001)


async def take(home: FakeDaemon) -> None:
    (asked,) = await home.engine.checkpoints.fork("c", "copy", count=0, settings={})
    await home.ended_or_dead(asked.id)


async def cool(home: FakeDaemon) -> None:
    await home.engine.pools.cool("c")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("act", "size"), [(fill, 0), (take, 1), (cool, 1)])
async def test_a_death_at_any_call(
    tmp_path: Path, act: Callable[[FakeDaemon], object], size: int, before: bool
) -> None:
    at = 1
    while await die(tmp_path / str(at), at, act, before=before, size=size):
        at += 1
    assert at > 3


def member(key: str, state: MemberState = MemberState.READY, of: str = "c") -> WarmMember:
    return WarmMember(key=key, checkpoint=of, state=state, nodes=())


def test_the_plan() -> None:
    pools = [WarmPoolRecord(checkpoint="c", size=2)]
    assert plan(pools, []) == WarmPoolPlan(end=(), make=("c", "c"))
    assert plan(pools, [member("1")]) == WarmPoolPlan(end=(), make=("c",))
    assert plan([], [member("1")]) == WarmPoolPlan(end=("1",), make=())
    making = member("1", MemberState.MAKING)
    assert plan(pools, [making, member("2"), member("3")]) == WarmPoolPlan(end=("1",), make=())
    ending = member("1", MemberState.ENDING)
    assert plan(pools, [ending, member("2", of="d")]) == WarmPoolPlan(
        end=("2", "1"), make=("c", "c")
    )


def test_room_is_told_in_numbers() -> None:
    require_room("c", 3, 100, 300)
    with pytest.raises(NoRoom, match="enough for 2") as refused:
        require_room("c", 3, 100, 299)
    assert refused.value.details == {"fit": 2, "asked": 3, "each": 100, "room": 299}
    with pytest.raises(NoRoom, match="enough for 0"):
        require_room("c", 1, 100, -5)
