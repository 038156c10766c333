"""The engine on fakes: what each request does and tells, in order, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labd.model.errors import Busy, IllegalTransition, InputError, NetworkFailed, NoRoom, NotFound
from labd.model.machine import GuestEventKind, MachineSpec
from labd.model.names import NodeRef
from labd.model.records import OperationKind, Wanted
from labd.model.specs import DiskSpec, NetworkSpec, NicSpec, Readiness
from labd.model.states import LabState, NodeState
from labd.model.units import GIB, MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.host import FakeMachine
from tests.fakes.labs import LIMIT, node, spec

K = OperationKind
N = NodeState


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


NOW = Readiness()  # ready as soon as the CPUs run

# order


async def test_up_tells_everything_in_order(home: FakeDaemon) -> None:
    seq = await home.seq()
    operation = await home.up(spec(node("a")))
    assert await home.story(seq) == [
        "operation.started up",
        "lab.created",
        "node.created a",
        "network.up lan",
        "node.starting a",
        "node.running a",
        "node.ready a",
        "lab.state starting>running",
        "operation.succeeded up",
    ]
    events = await home.inventory.events(seq, 100)
    assert {event.draft.operation for event in events} == {operation.id}
    assert {event.draft.lab for event in events} == {"web"}


async def test_down_asks_the_guest_and_keeps_the_disks(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    seq, key = await home.seq(), await home.key("a")
    await home.act(K.DOWN)
    assert await home.story(seq) == [
        "operation.started down",
        "lab.state running>stopping",
        "node.stopping a",
        "node.stopped a",
        "lab.state stopping>stopped",
        "network.down lan",
        "operation.succeeded down",
    ]
    found = await home.engine.console.node(NodeRef("web", "a"))
    assert (found.wanted, found.reason) == (Wanted.STOPPED, "the guest powered off")
    assert list((home.root / "state" / "nodes" / key).iterdir())
    assert home.networks.spaces == {}


async def test_destroy_commits_as_often_for_many_nodes_as_for_one(home: FakeDaemon) -> None:
    commits = []
    for count in (1, 12):
        names = [f"n{number:02}" for number in range(count)]
        await home.up(spec(*(node(name) for name in names)))
        seq, before = await home.seq(), home.crash.calls.count("commit")
        await home.act(K.DESTROY)
        commits.append(home.crash.calls.count("commit") - before)
        story = await home.story(seq)
        # Each node still has its own two events, in order.
        for kind in ("node.stopping", "node.destroyed"):
            assert [line for line in story if line.startswith(f"{kind} ")] == [
                f"{kind} {name}" for name in names
            ]
        assert story.index("node.stopping n00") < story.index("node.destroyed n00")
        await home.check_nothing()
    assert commits[0] == commits[1]


async def test_destroy_leaves_nothing(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    seq = await home.seq()
    await home.act(K.DESTROY)
    assert await home.story(seq) == [
        "operation.started destroy",
        "lab.state running>destroying",
        "node.stopping a",
        "network.down lan",
        "node.destroyed a",
        "lab.destroyed",
        "operation.succeeded destroy",
    ]
    await home.check_nothing()


async def test_stop_and_start_of_one_node(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    seq = await home.seq()
    await home.act(K.STOP, "a")
    await home.act(K.START, "a")
    assert await home.story(seq) == [
        "operation.started stop",
        "node.stopping a",
        "node.stopped a",
        "operation.succeeded stop",
        "operation.started start",
        "node.starting a",
        "lab.state running>degraded",
        "node.running a",
        "node.ready a",
        "lab.state degraded>running",
        "operation.succeeded start",
    ]
    assert (await home.engine.console.node(NodeRef("web", "a"))).starts == 2


async def test_restart_stops_and_starts_under_the_same_identity(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    before = await home.engine.console.node(NodeRef("web", "a"))
    seq = await home.seq()
    await home.act(K.RESTART, "a")
    assert [line for line in await home.story(seq) if line.startswith("node.")] == [
        "node.stopping a",
        "node.stopped a",
        "node.starting a",
        "node.running a",
        "node.ready a",
    ]
    after = await home.engine.console.node(NodeRef("web", "a"))
    assert (after.key, after.uuid, after.uid) == (before.key, before.uuid, before.uid)
    assert after.process != before.process


async def test_pause_and_resume(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    seq = await home.seq()
    pause = await home.act(K.PAUSE, "a")
    resume = await home.act(K.RESUME)
    assert await home.story(seq) == [
        "operation.started pause",
        "node.paused a",
        "operation.succeeded pause",
        "operation.started resume",
        "node.resumed a",
        "operation.succeeded resume",
    ]
    events = await home.inventory.events(seq, 100)
    assert [e.draft.operation for e in events] == [pause.id] * 3 + [resume.id] * 3
    assert await home.states() == {"a": "ready"}


async def test_reset_goes_back_to_running_and_then_ready(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    seq = await home.seq()
    operation = await home.act(K.RESET, "a")
    await home.until("a", N.READY)
    story = await home.story(seq)
    story.remove("operation.succeeded reset")
    assert story == [
        "operation.started reset",
        "node.reset a",
        "node.running a",
        "lab.state running>degraded",
        "node.ready a",
        "lab.state degraded>running",
    ]
    reset, running = (await home.inventory.events(seq, 100))[1:3]
    assert reset.draft.operation == running.draft.operation == operation.id


async def test_a_cause_is_not_told_of_what_comes_later(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    await home.act(K.PAUSE)
    await home.act(K.RESUME)
    seq = await home.seq()
    await home.hypervisor.pause(await home.key("a"))  # by somebody at the second monitor
    await home.until("a", N.PAUSED)
    (event,) = await home.inventory.events(seq, 10)
    assert event.draft.operation == ""


# doing it twice


async def test_without_an_edit_networks_are_made_once(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    of_up = home.crash.calls.count("apply")
    await home.act(K.DOWN)
    before = home.crash.calls.count("apply")
    await home.act(K.START)
    assert of_up == home.crash.calls.count("apply") - before > 0


async def test_up_twice_changes_nothing(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b", "a")))
    before, seq = await home.inventory.nodes(), await home.seq()
    calls = len(home.hypervisor.calls)
    await home.up(spec(node("a"), node("b", "a")))
    assert await home.story(seq) == ["operation.started up", "operation.succeeded up"]
    assert await home.inventory.nodes() == before
    assert home.hypervisor.calls[calls:] == []
    assert await home.engine.labs.plan("web", spec(node("a"), node("b", "a"))) == []


@pytest.mark.parametrize("kind", [K.DOWN, K.STOP])
async def test_stopping_twice_changes_nothing(home: FakeDaemon, kind: OperationKind) -> None:
    await home.up(spec(node("a")))
    await home.act(kind)
    before, seq = await home.inventory.nodes(), await home.seq()
    await home.act(kind)
    assert await home.story(seq) == [f"operation.started {kind}", f"operation.succeeded {kind}"]
    assert await home.inventory.nodes() == before


async def test_a_restart_of_the_daemon_changes_nothing_twice(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    await home.restart()
    await home.settled()
    before, seq = await home.inventory.nodes(), await home.seq()
    await home.restart()
    await home.settled()
    assert await home.story(seq) == ["node.adopted a", "node.adopted b", "daemon.started"]
    assert await home.inventory.nodes() == before


# failures


def fail_disk(home: FakeDaemon) -> None:
    home.root.joinpath("state").mkdir(exist_ok=True)
    home.root.joinpath("state", "nodes").write_text("in the way")


def fail_launch(home: FakeDaemon) -> None:
    home.host.fail_launch["*"] = "no such machine type"


def fail_networks(home: FakeDaemon) -> None:
    home.networks.fail["apply"] = NetworkFailed("no more bridges")


def fail_taps(home: FakeDaemon) -> None:
    home.networks.fail["open_taps"] = NetworkFailed("no more taps")


def fail_resume(home: FakeDaemon) -> None:
    inner = home.host.start

    def start(spec: MachineSpec) -> FakeMachine:
        made = inner(spec)
        made.hung = True
        return made

    home.host.start = start  # type: ignore[method-assign]


def fail_silent(home: FakeDaemon) -> None:
    home.host.boot_output = b"guest: dead\n"


def fail_crash(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    home.host.opens_agent = True
    home.host.open_agent = home.host.die  # type: ignore[method-assign]


def fail_panic(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    home.host.opens_agent = True
    home.host.open_agent = home.host.panic  # type: ignore[method-assign]


def fail_power_off(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    home.host.opens_agent = True
    home.host.open_agent = home.host.power_off  # type: ignore[method-assign]


FAILURES = [
    (fail_disk, "storage_failed", "cannot make"),
    (fail_launch, "launch_failed", "no such machine type"),
    (fail_networks, "network_failed", "no more bridges"),
    (fail_taps, "network_failed", "no more taps"),
    (fail_resume, "node_unresponsive", "did not answer"),
    (fail_silent, "guest_failed", "not ready after 0.05 s"),
    (fail_crash, "guest_failed", "crashed before it was ready"),
    (fail_panic, "guest_failed", "panicked before it was ready"),
    (fail_power_off, "guest_failed", "stopped before it was ready"),
]
QUICK = Readiness(console="guest: up", timeout=0.05)


@pytest.mark.parametrize(("failure", "code", "text"), FAILURES)
async def test_a_failed_up_leaves_nothing(
    home: FakeDaemon, failure: Any, code: str, text: str
) -> None:
    failure(home)
    error = await home.fails(
        home.engine.labs.up("web", spec(node("a", ready=QUICK), node("b", "a")))
    )
    assert error["code"] == code
    assert text in str(error["message"])
    if failure is fail_disk:
        home.root.joinpath("state", "nodes").unlink()
    await home.check_nothing()
    assert (await home.story())[-2:] == ["lab.destroyed", "operation.failed up"]


@pytest.mark.parametrize(("failure", "code", "text"), FAILURES[1:])
async def test_a_failed_up_of_a_stopped_lab_leaves_it_stopped(
    home: FakeDaemon, failure: Any, code: str, text: str
) -> None:
    lab = spec(node("a", ready=QUICK), node("b", "a"))
    await home.up(lab)
    await home.act(K.DOWN)
    failure(home)
    error = await home.fails(home.engine.labs.up("web", lab))
    assert error["code"] == code
    await home.check()
    assert (await home.lab()).state is LabState.STOPPED
    assert await home.states() == {"a": "stopped", "b": "stopped"}
    assert home.networks.spaces == {}
    assert {n.wanted for n in await home.inventory.nodes()} == {Wanted.STOPPED}


@pytest.mark.parametrize(("failure", "code", "text"), FAILURES[1:])
async def test_a_failed_start_leaves_the_others_alone(
    home: FakeDaemon, failure: Any, code: str, text: str
) -> None:
    await home.up(spec(node("a", ready=QUICK), node("b")))
    await home.act(K.STOP, "a")
    other = await home.engine.console.node(NodeRef("web", "b"))
    failure(home)
    error = await home.fails(home.engine.labs.act(K.START, "web", ["a"]))
    assert error["code"] == code
    await home.check()
    assert await home.states() == {"a": "stopped", "b": "ready"}
    assert await home.engine.console.node(NodeRef("web", "b")) == other
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_failed_start_tells_the_last_words(home: FakeDaemon) -> None:
    home.host.boot_output = b"\x1b[32mbooting\x1b[0m\r\nguest: dead\r\n\r\n"
    why = "node web/a is not ready after 0.05 s: no console pattern 'guest: up'"
    said = "web/a said last: 'guest: dead'"
    lab = spec(node("a", ready=QUICK))
    error = await home.fails(home.engine.labs.up("web", lab))
    hint = "with --keep, `lab up` leaves it to look at"
    assert error["message"] == f"{why}; {said}; {hint}"
    assert (error["node"], error["last_line"]) == ("a", "guest: dead")
    await home.check_nothing()
    error = await home.fails(home.engine.labs.up("web", lab, keep=True))
    assert error["message"] == f"{why}; {said}; `lab logs web/a` shows more"
    await home.act(K.DOWN)
    error = await home.fails(home.engine.labs.up("web", lab))
    assert error["message"] == f"{why}; {said}; `lab logs web/a` shows more", "it is stopped only"


async def test_keep_keeps_what_failed(home: FakeDaemon) -> None:
    fail_silent(home)
    await home.fails(home.engine.labs.up("web", spec(node("a", ready=QUICK)), keep=True))
    lab = await home.lab()
    assert lab.state is LabState.FAILED
    assert "not ready after 0.05 s" in lab.reason
    found = await home.engine.console.node(NodeRef("web", "a"))
    assert found.state is N.RUNNING
    assert found.reason == "not ready after 0.05 s: no console pattern 'guest: up'"
    home.host.say(found.key, b"guest: up\n")
    await home.up(spec(node("a", ready=QUICK)))
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_timeout_of_up(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    error = await home.fails(home.engine.labs.up("web", spec(node("a")), timeout=0.05))
    assert error["code"] == "guest_failed"
    assert error["message"] == (
        "lab web was not up within 0.05 s; web/a said nothing; "
        "with --keep, `lab up` leaves it to look at"
    )
    await home.check_nothing()


async def test_a_failure_beside_does_not_stop_the_watch_of_another_node(home: FakeDaemon) -> None:
    await home.up(spec(node("a", ready=QUICK), node("b")))
    home.host.boot_output = b""
    home.host.reset(await home.key("b"), guest=True)
    await home.until("b", N.RUNNING)
    await home.act(K.STOP, "a")
    await home.fails(home.engine.labs.act(K.START, "web", ["a"]))
    home.host.say(await home.key("b"), b"guest: up\n")
    await home.until("b", N.READY)


async def test_a_request_that_cannot_work_is_refused_and_writes_nothing(home: FakeDaemon) -> None:
    seq = await home.seq()
    with pytest.raises(InputError, match="there is no image"):
        await home.engine.labs.up("web", spec(replace(node("a"), image="nope")))
    with pytest.raises(InputError, match="lab name"):
        await home.engine.labs.up("Web", spec(node("a")))
    with pytest.raises(NotFound):
        await home.engine.labs.act(K.DOWN, "web")
    assert await home.seq() == seq
    assert home.engine.operations.running() == []


# a changed spec


async def test_an_edit_replaces_adds_and_removes(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b"), node("c"), networks=("lan", "old")))
    pids = {n.name: n.process for n in await home.inventory.nodes()}
    seq = await home.seq()
    new = spec(node("a"), replace(node("b"), memory=256 * MIB), node("d"), networks=("lan", "new"))
    await home.up(new)
    story = await home.story(seq)
    assert story[:4] == [
        "operation.started up",
        "lab.changed",
        "lab.state running>starting",
        "node.created d",
    ]
    assert story[-3:] == ["node.destroyed c", "network.down old", "operation.succeeded up"]
    assert story.index("node.stopped b") < story.index("node.starting b")
    assert await home.states() == {"a": "ready", "b": "ready", "d": "ready"}
    now = {n.name: n.process for n in await home.inventory.nodes()}
    assert now["a"] == pids["a"]
    assert now["b"] != pids["b"]
    machine = home.host.machines[await home.key("b")]
    assert machine.spec.memory == 256 * MIB
    (bridges,) = home.networks.spaces.values()
    assert bridges == {"br-lan", "br-new"}
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_soft_edit_restarts_nothing(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    before = await home.inventory.nodes()
    await home.up(spec(replace(node("a"), ready=Readiness(console="guest: up", timeout=77))))
    assert await home.inventory.nodes() == before


async def test_a_network_that_changes_replaces_its_nodes(home: FakeDaemon) -> None:
    lan = NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01")
    dmz = replace(lan, network="dmz")
    old = spec(node("a", nics=(lan,)), node("b", nics=(dmz,)), networks=("lan", "dmz"))
    await home.up(old)
    pids = {n.name: n.process for n in await home.inventory.nodes()}
    jumbo = (NetworkSpec(name="lan"), NetworkSpec(name="dmz", mtu=9000))
    await home.up(replace(old, networks=jumbo))
    now = {n.name: n.process for n in await home.inventory.nodes()}
    assert now["a"] == pids["a"]
    assert now["b"] != pids["b"]


async def test_a_failed_edit_is_taken_back(home: FakeDaemon) -> None:
    old = spec(node("a"), node("b"), node("c"))
    await home.up(old)
    kept = await home.engine.console.node(NodeRef("web", "a"))
    slow = node("d", ready=Readiness(console="never", timeout=0.05))
    new = spec(node("a"), replace(node("b"), memory=256 * MIB), slow)
    error = await home.fails(home.engine.labs.up("web", new))
    assert error["code"] == "guest_failed"
    await home.check()
    lab = await home.lab()
    assert (lab.spec, lab.previous, lab.state) == (old, None, LabState.RUNNING)
    assert await home.states() == {"a": "ready", "b": "ready", "c": "ready"}
    assert await home.engine.console.node(NodeRef("web", "a")) == kept
    assert home.host.machines[await home.key("b")].spec.memory == 128 * MIB


async def test_a_failed_edit_of_a_stopped_lab_is_taken_back(home: FakeDaemon) -> None:
    old = spec(node("a"), node("b"))
    await home.up(old)
    await home.act(K.DOWN)
    slow = node("c", ready=Readiness(console="never", timeout=0.05))
    await home.fails(home.engine.labs.up("web", spec(node("a"), slow)))
    await home.check()
    assert await home.states() == {"a": "stopped", "b": "stopped"}
    assert ((await home.lab()).spec, (await home.lab()).state) == (old, LabState.STOPPED)
    assert home.networks.spaces == {}


async def test_an_edit_that_can_not_be_taken_back_either_leaves_no_strange_nodes(
    home: FakeDaemon,
) -> None:
    old = spec(node("a"), node("b"))
    await home.up(old)
    home.host.fail_launch["*"] = "no more memory"
    await home.fails(home.engine.labs.up("web", spec(replace(node("a"), vcpus=2), node("c"))))
    await home.check()
    lab = await home.lab()
    assert (lab.spec, lab.previous, lab.state) == (old, None, LabState.DEGRADED)
    assert await home.states() == {"a": "stopped", "b": "ready"}


# order of start


async def test_nodes_start_in_the_order_of_their_dependencies(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up(
        "web", spec(node("c", "b"), node("b", "a:running"), node("a"))
    )
    await home.until("b", N.RUNNING)
    assert await home.states() == {"a": "running", "b": "running", "c": "stopped"}
    home.host.say(await home.key("b"), b"guest: up\n")
    await home.until("c", N.RUNNING)
    for name in ("a", "c"):
        home.host.say(await home.key(name), b"guest: up\n")
    await home.engine.operations.wait(operation.id, 5)
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_dependency_that_had_crashed_before_is_started_again(home: FakeDaemon) -> None:
    lab = spec(node("a"), node("b", "a"))
    await home.up(lab)
    for name in ("b", "a"):
        home.host.die(await home.key(name))
        await home.until(name, N.CRASHED)
    await home.up(lab)
    assert await home.states() == {"a": "ready", "b": "ready"}


@pytest.mark.parametrize("ending", ["die", "panic", "power_off"])
async def test_a_dependency_that_fails_ends_the_wait_for_it(home: FakeDaemon, ending: str) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up("web", spec(node("a"), node("b", "a"), node("c", "b")))
    await home.until("a", N.RUNNING)
    getattr(home.host, ending)(await home.key("a"))
    error = await home.fails(home.engine.operations.get(operation.id))
    assert error["code"] == "guest_failed"
    await home.check_nothing()


async def test_a_dependency_that_went_away_after_it_was_ready_is_hopeless(home: FakeDaemon) -> None:
    # `a` is ready at once and powers off while `b` waits for `c`.
    home.host.boot_output = b""
    lab = spec(node("a", ready=NOW), node("c"), node("b", "c"), node("d", "b", "a"))
    operation = await home.engine.labs.up("web", lab, keep=True)
    await home.until("c", N.RUNNING)
    home.host.power_off(await home.key("a"))
    error = await home.fails(home.engine.operations.get(operation.id))
    assert error["message"] == "node web/d waits for a, which is stopped"


async def test_starting_or_restarting_a_node_starts_what_it_depends_on(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b", "a"), node("c")))
    for kind in (K.START, K.RESTART):
        await home.act(K.STOP)
        await home.act(kind, "b")
        assert await home.states() == {"a": "ready", "b": "ready", "c": "stopped"}


async def test_boot_slots_bound_how_many_boot_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labd.core.boot_slots._QUICK", 0)  # fakes boot in no time
    async with engine_over_fakes(tmp_path) as home:
        home.slots = 2
        await home.restart()
        home.host.boot_output = b""
        names = ["a", "b", "c", "d", "e"]
        operation = await home.engine.labs.up("web", spec(*(node(name) for name in names)))
        started: set[str] = set()
        most = 0
        async with asyncio.timeout(LIMIT):
            while len(started) < len(names):
                await home.settled()
                booting = {n.name for n in await home.inventory.nodes() if n.state is N.RUNNING}
                most = max(most, len(booting))
                assert len(booting) <= 2
                started |= booting
                if booting:  # none yet, on a busy host
                    home.host.say(await home.key(min(booting)), b"guest: up\n")
            while running := {n.key for n in await home.inventory.nodes() if n.state is N.RUNNING}:
                home.host.say(running.pop(), b"guest: up\n")
                await home.settled()
        assert most == 2
        done = await home.engine.operations.wait(operation.id, 5)
        assert done.error is None


async def test_more_boot_at_one_time_of_what_got_ready_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labd.core.boot_slots._QUICK", LIMIT)
    async with engine_over_fakes(tmp_path) as home:
        home.slots = 1
        await home.restart()
        await home.up(spec(node("a")), "first")
        home.host.boot_output = b""
        operation = await home.engine.labs.up("web", spec(*(node(name) for name in "abc")))
        async with asyncio.timeout(LIMIT):
            while await home.states() != dict.fromkeys("abc", "running"):
                await asyncio.sleep(0.01)
        for name in "abc":
            home.host.say(await home.key(name), b"guest: up\n")
        await home.ok(home.engine.operations.get(operation.id))


# refusals


async def test_busy_names_the_operation(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up("web", spec(node("a")))
    why = rf"web is busy: up \({operation.id}\) runs; wait for it with `lab wait web --for idle`"
    with pytest.raises(Busy, match=why) as caught:
        await home.engine.labs.act(K.STOP, "web")
    assert caught.value.details == {"operation": operation.id, "kind": "up"}
    with pytest.raises(Busy):
        await home.engine.labs.up("web", spec(node("a")))
    view = await home.engine.overview.get("web")
    assert view.operation is not None
    assert view.operation.id == operation.id
    await home.up(spec(node("a", ready=NOW)), name="other")  # no lab waits for another
    home.host.say(await home.key("a"), b"guest: up\n")
    await home.engine.operations.wait(operation.id, 5)


@pytest.mark.parametrize("kind", [K.DOWN, K.DESTROY])
async def test_a_start_that_hangs_does_not_hold_up_who_wants_it_gone(
    home: FakeDaemon, kind: K
) -> None:
    home.host.boot_output = b""
    start = await home.engine.labs.up("web", spec(node("a"), node("b")))
    await home.until("a", N.RUNNING)
    await home.until("b", N.RUNNING)
    end = await home.engine.labs.act(kind, "web")
    ended = await home.engine.operations.wait(start.id, 0)
    assert ended.error == {
        "code": "superseded",
        "message": f"up of lab web was ended by {kind}",
    }
    assert (await home.engine.operations.wait(end.id, 5)).error is None
    assert not home.host.machines
    labs = await home.engine.overview.all()
    if kind is K.DESTROY:
        assert not labs
        return
    assert [(lab.name, lab.state) for lab, _ in labs] == [("web", LabState.STOPPED)]
    home.host.boot_output = b"guest: up\n"
    await home.up(spec(node("a"), node("b")))


async def test_two_at_one_moment(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    results = await asyncio.gather(
        *(home.engine.labs.act(kind, "web") for kind in (K.DOWN, K.RESTART, K.DESTROY)),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Busy)]
    assert len(refused) == 2


async def test_the_lab_is_free_when_its_outcome_is_told(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    for _ in range(5):
        for kind in (K.PAUSE, K.RESUME):
            seq = await home.seq()
            await home.engine.labs.act(kind, "web")
            while f"operation.succeeded {kind}" not in await home.story(seq):
                await home.engine.events.wait(await home.seq())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (K.RESUME, "cannot resume web/a: it is ready, and must be paused"),
        (K.PAUSE, "cannot pause web/b: it is stopped, and must be ready or running"),
        (
            K.RESET,
            "cannot reset web/b: it is stopped, and must be panicked or paused or ready or running",
        ),
    ],
)
async def test_what_a_node_cannot_do_now(
    home: FakeDaemon, kind: OperationKind, message: str
) -> None:
    await home.up(spec(node("a"), node("b")))
    await home.act(K.STOP, "b")
    seq = await home.seq()
    with pytest.raises(IllegalTransition) as caught:
        await home.engine.labs.act(kind, "web", ["a" if kind is K.RESUME else "b"])
    assert caught.value.message == message
    assert await home.seq() == seq
    with pytest.raises(NotFound, match=r"there is no node web/c"):
        await home.engine.labs.act(kind, "web", ["c"])
    with pytest.raises(NotFound) as missed:
        await home.engine.labs.act(K.DESTROY, "wen")
    assert missed.value.message == "there is no lab wen; did you mean 'web'?"
    assert await home.seq() == seq


async def test_a_whole_lab_takes_those_nodes_that_can(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    await home.act(K.STOP, "b")
    await home.act(K.PAUSE)
    assert await home.states() == {"a": "paused", "b": "stopped"}


async def test_no_room_starts_nothing(home: FakeDaemon) -> None:
    home.memory = GIB + 200 * MIB
    seq = await home.seq()
    with pytest.raises(NoRoom, match="its 2 nodes need 320 MiB, and the host has 200 MiB free"):
        await home.engine.labs.up("web", spec(node("a"), node("b")))
    assert await home.seq() == seq
    await home.up(spec(node("a")))
    home.memory = GIB + 100 * MIB
    await home.up(spec(node("a")))  # it runs already, and needs no more
    await home.act(K.STOP)
    for kind in (K.START, K.RESTART):
        with pytest.raises(NoRoom):
            await home.engine.labs.act(kind, "web")


async def test_two_labs_are_not_promised_the_same_memory(home: FakeDaemon) -> None:
    home.memory = GIB + 200 * MIB
    asked = [home.engine.labs.up(name, spec(node("a"))) for name in ("web", "other")]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["OperationRecord", "NoRoom"]
    assert "160 MiB promised" in str(results[1])


# identity, disks


async def test_uids_are_unique_and_used_again(home: FakeDaemon) -> None:
    for name in ("web", "one", "two"):
        await home.up(spec(node("a"), node("b")), name=name)
    uids = [n.uid for n in await home.inventory.nodes()]
    assert sorted(uids) == list(range(700_000, 700_006))
    mine = {n.uid for n in await home.inventory.nodes("one")}
    await home.ok(home.engine.labs.act(K.DESTROY, "one"))
    await home.up(spec(node("a"), node("b")), name="three")
    assert {n.uid for n in await home.inventory.nodes("three")} == mine


async def test_disks_are_made_once_and_stay(home: FakeDaemon) -> None:
    lab = spec(node("a", disks=(DiskSpec(name="data", size=MIB),)))
    await home.up(lab)
    folder = home.root / "state" / "nodes" / await home.key("a")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["disk-data.qcow2", "root-6469736b0000.qcow2"]
    (folder / names[0]).write_text("mine")
    await home.act(K.RESTART)
    assert (folder / names[0]).read_text() == "mine"


# races


async def test_a_node_may_crash_while_it_is_asked_to_stop(home: FakeDaemon) -> None:
    home.host.obeys_power_down = False
    await home.up(spec(node("a"), node("b")))
    operation = await home.engine.labs.act(K.DOWN, "web")
    await home.until("a", N.STOPPING)
    for name in ("a", "b"):
        home.host.die(await home.key(name))
    assert (await home.done(home.engine.operations.get(operation.id))).error is None
    assert await home.states() == {"a": "stopped", "b": "stopped"}


@pytest.mark.parametrize("kind", [K.DOWN, K.STOP, K.RESTART, K.DESTROY])
@pytest.mark.parametrize("ending", ["die", "power_off", "panic"])
async def test_an_end_at_the_moment_of_the_request(
    home: FakeDaemon, kind: OperationKind, ending: str
) -> None:
    await home.up(spec(node("a"), node("b")))
    key = await home.key("a")
    asked = asyncio.create_task(home.engine.labs.act(kind, "web", force=True))
    for _ in range(3):
        await asyncio.sleep(0)
    getattr(home.host, ending)(key)
    await home.ok(asked)
    await home.settled()
    if kind is K.DESTROY:
        await home.check_nothing()
        return
    assert set((await home.states()).values()) == {"ready" if kind is K.RESTART else "stopped"}


async def test_the_intent_does_not_take_back_what_the_watcher_wrote(home: FakeDaemon) -> None:
    # The crash is written while the request waits for its transaction.
    await home.up(spec(node("a"), node("b")))
    home.host.die(await home.key("a"))
    async with home.inventory._lock:  # as a transaction of somebody else's has it
        asked = asyncio.create_task(home.engine.labs.act(K.STOP, "web", ["b"]))
        await home.settled()
    await home.ok(asked)
    assert await home.states() == {"a": "crashed", "b": "stopped"}
    await home.check()


async def test_a_late_end_of_the_old_process_is_not_taken_for_the_new_one(home: FakeDaemon) -> None:
    await home.up(spec(node("a"), node("b")))
    key = await home.key("a")
    queue = home.engine._watcher._queue
    put = queue.put_nowait
    late: list[Any] = []

    def hold_up(item: Any) -> None:
        ended = item.event is not None and item.event.kind is GuestEventKind.EXITED
        (late.append if ended else put)(item)

    queue.put_nowait = hold_up  # type: ignore[method-assign]
    await home.act(K.RESTART, "a", force=True)
    assert len(late) == 1
    put(late[0])
    await home.engine._watcher.drain()
    assert await home.states() == {"a": "ready", "b": "ready"}
    assert "node.crashed a" not in await home.story()
    assert key in home.host.machines


async def test_a_cancelled_request_is_either_done_or_not(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    for turns in range(12):
        asked = asyncio.create_task(home.engine.labs.act(K.PAUSE, "web"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await home.idle()
        assert home.engine.operations.running() == []
        if (await home.states())["a"] == "paused":
            await home.act(K.RESUME)


async def test_one_node_that_fails_does_not_leave_the_others_to_themselves(
    home: FakeDaemon,
) -> None:
    await home.up(spec(node("a"), node("b")))
    home.host.hang(await home.key("a"))
    error = await home.fails(home.engine.labs.act(K.PAUSE, "web"))
    assert error["code"] == "node_unresponsive"
    assert (await home.states())["b"] == "paused"  # and so it was when the outcome was written
    await home.act(K.DOWN)
    assert await home.states() == {"a": "stopped", "b": "stopped"}
