"""The daemon dies at any moment: the next one adopts, finishes or takes back, and tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from labd.features.labs.edit_views import NewNode
from labd.model.errors import LabdError, LaunchFailed
from labd.model.machine import MachineSpec, RunState
from labd.model.names import NodeRef
from labd.model.records import OperationKind, OperationRecord
from labd.model.specs import DiskSpec, Gateway, LabSpec, NetworkSpec, NicSpec, Readiness
from labd.model.states import LabState, NodeState, OperationState
from labd.model.units import MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.host import FakeMachine
from tests.fakes.labs import node, spec

K = OperationKind
N = NodeState
LAB = spec(node("a"), node("b", "a"))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


# what happened meanwhile


async def test_what_runs_is_adopted(home: FakeDaemon) -> None:
    await home.up(LAB)
    before, seq = await home.inventory.nodes(), await home.seq()
    recovered = await home.restart()
    assert (recovered.adopted, recovered.lost, recovered.orphans, recovered.resumed) == (2, 0, 0, 0)
    assert await home.story(seq) == ["node.adopted a", "node.adopted b", "daemon.started"]
    assert await home.inventory.nodes() == before
    await home.act(K.PAUSE, "a")
    await home.act(K.RESUME, "a")


async def test_a_daemon_that_stops_leaves_the_nodes(home: FakeDaemon) -> None:
    await home.up(LAB)
    seq = await home.seq()
    await home.close()
    assert len(home.host.machines) == 2
    assert await home.story(seq) == ["daemon.stopped"]
    await home.start()


async def test_a_node_that_crashed_while_away(home: FakeDaemon) -> None:
    await home.up(LAB)
    await home.kill_daemon()
    home.host.die(await home.key("a"))
    seq = await home.seq()
    recovered = await home.start()
    assert (recovered.adopted, recovered.lost) == (1, 1)
    found = await home.engine.console.node(NodeRef("web", "a"))
    assert found.state is N.CRASHED
    assert found.reason.startswith("its QEMU ended while labd was away")
    assert (await home.lab()).state is LabState.DEGRADED
    story = await home.story(seq)
    assert sorted(story[:-1]) == [
        "lab.state running>degraded",
        "node.adopted b",
        "node.crashed a",
    ]


async def test_a_process_of_another_boot_is_not_taken_for_ours(home: FakeDaemon) -> None:
    await home.up(LAB)
    await home.kill_daemon()
    machine = home.host.machines[await home.key("a")]
    machine.process = replace(machine.process, boot_id="another")
    recovered = await home.start()
    assert (recovered.adopted, recovered.lost, recovered.orphans) == (1, 1, 1)
    assert await home.states() == {"a": "crashed", "b": "ready"}


async def test_a_guest_that_powered_off_while_away(home: FakeDaemon) -> None:
    await home.up(LAB)
    await home.kill_daemon()
    home.host.power_off(await home.key("a"))
    seq = await home.seq()
    await home.start()
    await home.settled()
    found = await home.engine.console.node(NodeRef("web", "a"))
    assert (found.state, found.reason) == (N.STOPPED, "the guest powered off while labd was away")
    story = await home.story(seq)
    assert "node.crashed a" not in story
    assert story.count("node.stopped a") == 1


@pytest.mark.parametrize("before", [N.READY, N.PAUSED, N.PANICKED])
@pytest.mark.parametrize(
    ("now", "state"),
    [
        (RunState.RUNNING, N.READY),
        (RunState.PAUSED, N.PAUSED),
        (RunState.PRELAUNCH, N.PAUSED),
        (RunState.IO_ERROR, N.PAUSED),
        (RunState.PANICKED, N.PANICKED),
        (RunState.SHUTDOWN, N.STOPPED),
    ],
)
async def test_the_record_follows_what_qemu_says(
    home: FakeDaemon, before: N, now: RunState, state: N
) -> None:
    await home.up(spec(node("a")))
    if before is N.PAUSED:
        await home.act(K.PAUSE)
    elif before is N.PANICKED:
        home.host.panic(await home.key("a"))
        await home.until("a", N.PANICKED)
    await home.kill_daemon()
    home.host.machines[await home.key("a")].state = now
    await home.start()
    await home.until("a", state)
    await home.settled()
    assert await home.states() == {"a": str(state)}
    assert (await home.restart()).lost == 0


@pytest.mark.parametrize("before", [N.READY, N.PAUSED, N.PANICKED])
async def test_a_qemu_that_hung_while_away(home: FakeDaemon, before: N) -> None:
    await home.up(LAB)
    key = await home.key("a")
    if before is N.PAUSED:
        await home.act(K.PAUSE, "a")
    elif before is N.PANICKED:
        home.host.panic(key)
        await home.until("a", N.PANICKED)
    await home.kill_daemon()
    home.host.hang(key)
    recovered = await home.start()
    assert recovered.adopted == 2
    hung = N.PANICKED if before is N.PANICKED else N.UNRESPONSIVE
    await home.until("a", hung)
    await home.restart()
    await home.until("a", hung)
    home.host.recover(key)
    await home.until("a", before)
    await home.act(K.DOWN)


async def test_a_node_that_was_booting_becomes_ready_under_the_next_daemon(
    home: FakeDaemon,
) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up("web", spec(node("a")))
    await home.until("a", N.RUNNING)
    recovered = await home.restart()
    assert recovered.resumed == 1
    assert (await home.engine.overview.get("web")).operation is not None
    home.host.say(await home.key("a"), b"guest: up\n")
    done = await home.engine.operations.wait(operation.id, 5)
    assert done.state is OperationState.SUCCEEDED
    assert (await home.engine.console.node(NodeRef("web", "a"))).starts == 1


async def test_a_guest_that_was_reset_and_not_ready_yet(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    home.host.boot_output = b""
    key = await home.key("a")
    home.host.machines[key].output.clear()
    home.host.reset(key, guest=True)
    await home.until("a", N.RUNNING)
    await home.restart()
    home.host.say(key, b"guest: up\n")
    await home.until("a", N.READY)


# what was half done


async def test_a_process_that_was_launched_and_not_written_down_is_ended(home: FakeDaemon) -> None:
    home.crash.name, home.crash.since = "commit", "launch"
    await home.engine.labs.up("web", spec(node("a")))
    await home.death()
    (orphan,) = home.host.machines.values()
    recovered = await home.restart()
    assert recovered.orphans == 1
    await home.idle()
    assert await home.states() == {"a": "ready"}
    assert home.host.machines[orphan.spec.key] is not orphan


async def test_processes_and_folders_of_nobody_are_ended_and_removed(home: FakeDaemon) -> None:
    await home.up(LAB)
    stray = replace(home.host.machines[await home.key("a")].spec, key="stray0", uuid="x")
    home.host.start(stray)
    for folder in ("state/nodes/stray0", "run/n/stray0"):
        (home.root / folder).mkdir(parents=True)
    home.networks.spaces["labd-fake-stray0"] = set()
    recovered = await home.restart()
    assert recovered.orphans == 1
    await home.check()


async def test_a_stop_that_was_half_done_goes_on_as_politely(home: FakeDaemon) -> None:
    home.host.obeys_power_down = False
    await home.up(spec(node("a")))
    operation = await home.engine.labs.act(K.STOP, "web", grace=60)
    await home.until("a", N.STOPPING)
    await home.restart()
    await home.settled()
    assert await home.states() == {"a": "stopping"}
    assert ("power_down", await home.key("a")) in home.hypervisor.calls
    home.host.power_off(await home.key("a"))
    done = await home.engine.operations.wait(operation.id, 5)
    assert done.error is None
    found = await home.engine.console.node(NodeRef("web", "a"))
    assert (found.state, found.reason) == (N.STOPPED, "the guest powered off")


async def test_a_stop_that_nobody_goes_on_with_is_finished_by_up(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    await home.engine.state_writer.move(NodeRef("web", "a"), N.STOPPING)
    await home.restart()
    await home.up(spec(node("a")))
    assert await home.states() == {"a": "ready"}


async def test_image_operations_end_with_the_daemon(home: FakeDaemon) -> None:
    waiting = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        await waiting.wait()

    home.images.download = hang  # type: ignore[method-assign,assignment]
    operation = await home.engine.images.download("big", "http://x/big", format=None, sha256="")
    await home.restart()
    done = await home.engine.operations.get(operation.id)
    assert done.error == {
        "code": "world_error",
        "message": "labd was restarted meanwhile; ask for it again",
    }
    assert (await home.story())[-2] == "operation.failed image-import"
    await home.engine.images.build("tiny", "big")  # the name is free


# a daemon that dies at every call that it makes

BIGGER = spec(replace(node("a"), vcpus=2), node("c"))
# Takes nothing but what machines take as they run: a disk and a NIC go, others come.
PLUGGED = spec(
    node(
        "a",
        disks=(DiskSpec(name="new", size=MIB), DiskSpec(name="more", size=MIB)),
        nics=(NicSpec(name="eth1", network="two", mac="02:00:00:00:00:02"),),
    ),
    node("b"),
    networks=("lan", "two"),
)
UNPLUGGED = spec(node("a", disks=(DiskSpec(name="old", size=MIB),)), node("b"))

CONNECTED = replace(
    LAB,
    networks=(
        NetworkSpec(
            name="lan",
            subnet="10.0.0.0/24",
            uplink="nat",
            gateway=Gateway.LABD,
            gateway_address="10.0.0.1",
        ),
    ),
)
SEPARATED = replace(LAB, networks=(replace(CONNECTED.networks[0], uplink="none"),))


@dataclass(frozen=True)
class Story:
    """A request in a lab that is there, and what there may be when it and a restart are over.

    Attributes:
        spec: The lab before; None for none.
        down: It is stopped before.
        ask: The request.
        begun: Lab state and node states when the request was accepted; None for no lab.
        fails: Its launches fail: of nodes with two CPUs, or of all ("*").
    """

    ask: Callable[[FakeDaemon], Awaitable[OperationRecord]]
    begun: tuple[LabState, dict[str, str]] | None
    spec: LabSpec | None = LAB
    down: bool = False
    fails: str = ""


RUNS = (LabState.RUNNING, {"a": "ready", "b": "ready"})
STOPS = (LabState.STOPPED, {"a": "stopped", "b": "stopped"})
STORIES = {
    "up": Story(lambda h: h.engine.labs.up("web", LAB), RUNS, spec=None),
    "up again": Story(lambda h: h.engine.labs.up("web", LAB), RUNS, down=True),
    "up fails": Story(lambda h: h.engine.labs.up("web", LAB), None, spec=None, fails="*"),
    "up again fails": Story(lambda h: h.engine.labs.up("web", LAB), STOPS, down=True, fails="*"),
    "down": Story(lambda h: h.engine.labs.act(K.DOWN, "web"), STOPS),
    "destroy": Story(lambda h: h.engine.labs.act(K.DESTROY, "web"), None),
    "restart": Story(lambda h: h.engine.labs.act(K.RESTART, "web"), RUNS),
    "edit": Story(
        lambda h: h.engine.labs.up("web", BIGGER), (LabState.RUNNING, {"a": "ready", "c": "ready"})
    ),
    "connect": Story(lambda h: h.engine.labs.up("web", CONNECTED), RUNS, spec=SEPARATED),
    "separate": Story(lambda h: h.engine.labs.up("web", SEPARATED), RUNS, spec=CONNECTED),
    "destroy connected": Story(lambda h: h.engine.labs.act(K.DESTROY, "web"), None, spec=CONNECTED),
    "plug": Story(lambda h: h.engine.labs.up("web", PLUGGED), RUNS, spec=UNPLUGGED),
    "plug fails": Story(
        lambda h: h.engine.labs.up("web", PLUGGED), RUNS, spec=UNPLUGGED, fails="no place"
    ),
    "disk": Story(
        lambda h: h.engine.edits.attach_disk(NodeRef("web", "a"), "new", MIB, None), RUNS
    ),
    "node": Story(
        lambda h: h.engine.edits.add_node("web", NewNode(name="c", image="disk")),
        (LabState.RUNNING, {"a": "ready", "b": "ready", "c": "ready"}),
    ),
    "node rm": Story(
        lambda h: h.engine.edits.remove_node(NodeRef("web", "b")),
        (LabState.RUNNING, {"a": "ready"}),
    ),
    "node of a lab that is down": Story(
        lambda h: h.engine.edits.add_node("web", NewNode(name="c", image="disk")),
        (LabState.STOPPED, {"a": "stopped", "b": "stopped", "c": "stopped"}),
        down=True,
    ),
    "edit fails": Story(lambda h: h.engine.labs.up("web", BIGGER), RUNS, fails="2"),
}


def let_launches_fail(home: FakeDaemon, which: str) -> None:
    """Have the launches of all machines, or of those with two CPUs, fail."""
    start = home.host.start

    def try_to(spec: MachineSpec) -> FakeMachine:
        if which == "*" or (which == "2" and spec.vcpus == 2):
            raise LaunchFailed("no such CPU")
        return start(spec)

    home.host.start = try_to  # type: ignore[method-assign]


async def seen(home: FakeDaemon) -> tuple[LabState, dict[str, str]] | None:
    """Return lab and nodes once every node that boots has ended its boot."""
    await home.idle()
    for found in await home.inventory.nodes():
        if found.state is N.RUNNING:
            await home.until(found.name, N.READY)
    lab = await home.inventory.lab("web")
    return None if lab is None else (lab.state, await home.states())


async def live_through(story: Story, root: Path, at: int, *, before: bool) -> bool:
    """Tell the story with a death at a call; tell whether there was one."""
    async with engine_over_fakes(root) as home:
        if story.spec is not None:
            await home.up(story.spec)
        if story.down:
            await home.act(K.DOWN)
        if story.fails == "no place":
            home.host.no_place = {"n1"}
        let_launches_fail(home, story.fails)
        earlier = await seen(home)
        home.crash.at, home.crash.before = len(home.crash.calls) + at, before
        known = {operation.id for operation in await home.inventory.operations()}
        try:
            operation = await story.ask(home)
            await home.ended_or_dead(operation.id)
        except LabdError:
            assert home.crash.dead.is_set()
        died = home.crash.dead.is_set()
        calls = home.crash.calls[-3:]
        await home.restart()
        got = await seen(home)
        accepted = [o for o in await home.inventory.operations() if o.id not in known]
        assert got == (story.begun if accepted else earlier), (at, before, calls)
        await home.check()
        if accepted:
            (operation,) = accepted
            failed = operation.state is OperationState.FAILED
            assert failed is bool(story.fails), (at, before, calls, operation.error)
        if got is not None and got[0] is LabState.STOPPED:
            assert home.networks.spaces == {}
        lab = await home.inventory.lab("web")
        if lab is not None and accepted and story.ask is STORIES["edit"].ask:
            assert lab.spec == BIGGER
    return died


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", STORIES)
async def test_a_death_at_any_call(tmp_path: Path, name: str, before: bool) -> None:
    at = 1
    while await live_through(STORIES[name], tmp_path / str(at), at, before=before):
        at += 1
    assert at > 3


async def test_deaths_during_the_recovery(tmp_path: Path) -> None:
    for at in range(1, 100):
        async with engine_over_fakes(tmp_path / str(at)) as home:
            home.crash.name = "resume"
            await home.engine.labs.up("web", LAB)
            await home.death()
            await home.kill_daemon()
            try:
                await home.start(at=at)
                await home.settled()
            except LabdError:
                assert home.crash.dead.is_set()
            died = home.crash.dead.is_set()
            await home.restart()
            assert await seen(home) == RUNS
        if not died:
            break
    assert 5 < at < 99


async def test_a_daemon_that_is_stopped_in_the_middle(tmp_path: Path) -> None:
    for turns in range(0, 120, 5):
        async with engine_over_fakes(tmp_path / str(turns)) as home:
            asked = asyncio.create_task(home.engine.labs.up("web", LAB))
            for _ in range(turns):
                await asyncio.sleep(0)
            await home.close()
            (answer,) = await asyncio.gather(asked, return_exceptions=True)
            assert isinstance(answer, OperationRecord | LabdError)
            assert (await home.story())[-1] == "daemon.stopped"
            await home.start()
            assert await seen(home) == (RUNS if isinstance(answer, OperationRecord) else None)
            assert "node.crashed" not in str(await home.story())


async def test_readiness_of_an_up_that_was_kept(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    quick = spec(node("a", ready=Readiness(console="guest: up", timeout=0.05)))
    await home.fails(home.engine.labs.up("web", quick, keep=True))
    await home.restart()
    assert (await home.lab()).state is LabState.FAILED
    home.host.say(await home.key("a"), b"guest: up\n")
    await home.until("a", N.READY)
    assert (await home.lab()).state is LabState.RUNNING
