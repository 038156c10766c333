"""What guests and QEMU do on their own account, and how the engine writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from labd.model.machine import ExecResult, GuestEventKind
from labd.model.names import NodeRef
from labd.model.records import OperationKind
from labd.model.specs import GuestFile, Readiness
from labd.model.states import LabState, NodeState
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

K = OperationKind
N = NodeState
NOW = Readiness()
LAB = spec(node("a"), node("b"))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        await it.up(LAB)
        yield it


async def test_pause_and_resume_from_outside(home: FakeDaemon) -> None:
    key, seq = await home.key("a"), await home.seq()
    await home.hypervisor.pause(key)
    await home.until("a", N.PAUSED)
    await home.hypervisor.resume(key)
    await home.until("a", N.READY)
    assert await home.story(seq) == ["node.paused a", "node.resumed a"]
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_panic(home: FakeDaemon) -> None:
    seq = await home.seq()
    home.host.panic(await home.key("a"))
    found = await home.until("a", N.PANICKED)
    await home.settled()
    assert found.reason == "the guest panicked"
    assert await home.story(seq) == ["node.panicked a", "lab.state running>degraded"]


async def test_a_panicked_node_is_ready_again_after_a_reset(home: FakeDaemon) -> None:
    home.host.panic(await home.key("a"))
    await home.until("a", N.PANICKED)
    seq = await home.seq()
    await home.act(K.RESET, "a")
    await home.until("a", N.READY)
    await home.settled()
    story = await home.story(seq)
    assert [item for item in story if not item.startswith("operation.")] == [
        "node.reset a",
        "node.resumed a",
        "node.ready a",
        "lab.state degraded>running",
    ]


async def test_a_power_off_is_no_crash(home: FakeDaemon) -> None:
    seq = await home.seq()
    home.host.power_off(await home.key("a"))
    found = await home.until("a", N.STOPPED)
    await home.settled()
    assert (found.reason, found.process) == ("the guest powered off", None)
    assert await home.story(seq) == ["node.stopped a", "lab.state running>degraded"]
    (stopped, _) = await home.inventory.events(seq, 10)
    assert stopped.draft.data["cause"] == "guest-poweroff"


async def test_a_node_is_said_to_be_stopped_when_it_can_be_started(home: FakeDaemon) -> None:
    for _ in range(5):
        seq = await home.seq()
        home.host.power_off(await home.key("a"))
        while "node.stopped a" not in await home.story(seq):
            await home.engine.events.wait(await home.seq())
        await home.act(K.START, "a")
    assert (await home.states())["a"] == "ready"


async def test_a_reset_by_the_guest(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    key, seq = await home.key("a"), await home.seq()
    home.host.machines[key].output.clear()
    home.host.reset(key, guest=True)
    assert (await home.until("a", N.RUNNING)).reason == "it was reset"
    home.host.say(key, b"guest: up\n")
    await home.until("a", N.READY)
    assert await home.story(seq) == [
        "node.reset a",
        "node.running a",
        "lab.state running>degraded",
        "node.ready a",
        "lab.state degraded>running",
    ]


async def test_a_node_that_is_ready_at_once_is_so_after_a_reset_too(home: FakeDaemon) -> None:
    await home.up(spec(node("c", ready=NOW)), name="now")
    home.host.reset(await home.key("c", "now"), guest=True)
    await home.until("c", N.RUNNING, lab="now")
    await home.until("c", N.READY, lab="now")


async def test_a_reset_while_it_is_paused_is_a_new_boot(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    key = await home.key("a")
    await home.act(K.PAUSE, "a")
    home.host.machines[key].output.clear()
    await home.act(K.RESET, "a")
    assert (await home.until("a", N.RUNNING)).state is N.RUNNING  # and not as ready as before
    home.host.say(key, b"guest: up\n")
    await home.until("a", N.READY)


async def test_unresponsive_and_responsive(home: FakeDaemon) -> None:
    key, seq = await home.key("a"), await home.seq()
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("a", N.UNRESPONSIVE)
    home.host.recover(key)
    await home.until("a", N.READY)
    assert await home.story(seq) == [
        "node.unresponsive a",
        "lab.state running>degraded",
        "node.responsive a",
        "lab.state degraded>running",
    ]


@pytest.mark.parametrize(
    ("ending", "state"), [("power_off", N.STOPPED), ("panic", N.PANICKED), ("die", N.CRASHED)]
)
async def test_what_happens_to_a_node_that_hangs(home: FakeDaemon, ending: str, state: N) -> None:
    key = await home.key("a")
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("a", N.UNRESPONSIVE)
    getattr(home.host, ending)(key)
    if ending != "die":
        home.host.recover(key)
    await home.until("a", state)
    await home.settled()
    assert (await home.states())["a"] == str(state)


async def test_a_paused_node_that_hung_is_paused_again(home: FakeDaemon) -> None:
    key = await home.key("a")
    await home.act(K.PAUSE, "a")
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("a", N.UNRESPONSIVE)
    home.host.recover(key)
    await home.until("a", N.PAUSED)
    await home.act(K.RESUME, "a")
    assert (await home.states())["a"] == "ready"


async def test_the_end_of_qemu_is_a_crash_with_its_last_words(home: FakeDaemon) -> None:
    seq = await home.seq()
    home.host.die(await home.key("a"), status=1, stderr="qemu: out of memory")
    found = await home.until("a", N.CRASHED)
    assert (found.reason, found.process) == ("its QEMU ended unexpectedly", None)
    crashed, degraded = await home.inventory.events(seq, 10)
    assert crashed.draft.data["stderr"] == "qemu: out of memory"
    assert degraded.draft.data["to"] == "degraded"
    await home.act(K.START, "a")
    assert (await home.lab()).state is LabState.RUNNING


async def test_watchdogs_and_io_errors_are_told(home: FakeDaemon) -> None:
    key, seq = await home.key("a"), await home.seq()
    home.host.emit(key, GuestEventKind.WATCHDOG, action="none")
    home.host.emit(key, GuestEventKind.IO_ERROR, device="root", nospace=True)
    home.host.emit(key, GuestEventKind.PAUSED)
    await home.until("a", N.PAUSED)
    assert await home.story(seq) == ["node.watchdog a", "node.io-error a", "node.paused a"]
    io_error = (await home.inventory.events(seq, 10))[1]
    assert io_error.draft.data["device"] == "root"


async def test_events_of_machines_that_are_no_more_are_nothing(home: FakeDaemon) -> None:
    seq = await home.seq()
    home.hypervisor._known.add("nobody")
    home.host.emit("nobody", GuestEventKind.EXITED)
    home.host.emit("nobody", GuestEventKind.RESET)
    await home.engine._watcher.drain()
    assert await home.seq() == seq


async def test_one_machine_that_hangs_again_holds_up_no_other(home: FakeDaemon) -> None:
    key = await home.key("a")
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("a", N.UNRESPONSIVE)
    asked = asyncio.Event()

    async def never(_: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    home.hypervisor.query = never  # type: ignore[method-assign,assignment]
    home.host.emit(key, GuestEventKind.RESPONSIVE)
    async with asyncio.timeout(LIMIT):
        await asked.wait()
    home.host.die(await home.key("b"))
    await home.until("b", N.CRASHED)
    home.host.die(key)
    await home.until("a", N.CRASHED)


# while a node starts


def fall_at_once(home: FakeDaemon, ending: str) -> None:
    """Have guests end before the engine has written that they run."""
    resume = home.hypervisor.resume

    async def resume_and_fall(key: str) -> None:
        await resume(key)
        getattr(home.host, ending)(key)

    home.host.boot_output = b""
    home.hypervisor.resume = resume_and_fall  # type: ignore[method-assign]


ENDS = [("power_off", N.STOPPED), ("panic", N.PANICKED), ("die", N.CRASHED)]


@pytest.mark.parametrize(("ending", "end"), ENDS)
async def test_what_a_guest_does_before_its_start_is_written_is_not_lost(
    home: FakeDaemon, ending: str, end: N
) -> None:
    fall_at_once(home, ending)
    error = await home.fails(home.engine.labs.up("new", spec(node("c")), keep=True))
    assert str(error["message"]).startswith(f"node new/c {end} before it was ready")
    await home.settled()
    assert await home.states("new") == {"c": str(end)}
    assert (await home.lab("new")).state is LabState.FAILED


@pytest.mark.parametrize(("ending", "end"), ENDS)
async def test_nor_of_a_node_that_is_ready_at_once(home: FakeDaemon, ending: str, end: N) -> None:
    fall_at_once(home, ending)
    await home.done(home.engine.labs.up("new", spec(node("c", ready=NOW)), keep=True))
    await home.until("c", end, lab="new")


async def test_a_guest_that_hangs_for_a_while_as_it_boots_does_become_ready(
    home: FakeDaemon,
) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up("new", spec(node("c")))
    await home.until("c", N.RUNNING, lab="new")
    key = await home.key("c", "new")
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("c", N.UNRESPONSIVE, lab="new")
    home.host.say(key, b"guest: up\n")  # said while labd cannot know whether it runs
    await home.settled()
    assert await home.states("new") == {"c": "unresponsive"}
    home.host.recover(key)
    await home.until("c", N.READY, lab="new")
    done = await home.engine.operations.wait(operation.id, 5)
    assert done.error is None


async def test_a_guest_that_hangs_and_never_says_so_ends_the_wait(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    quick = node("c", ready=Readiness(console="guest: up", timeout=0.1))
    operation = await home.engine.labs.up("new", spec(quick), keep=True)
    await home.until("c", N.RUNNING, lab="new")
    key = await home.key("c", "new")
    home.host.hang(key)
    await asyncio.gather(home.hypervisor.query(key), return_exceptions=True)
    await home.until("c", N.UNRESPONSIVE, lab="new")
    home.host.recover(key)  # which begins another watch, that fails in its turn
    error = await home.fails(home.engine.operations.get(operation.id))
    assert "not ready after 0.1 s" in str(error["message"])


async def test_a_pause_while_it_boots_ends_the_wait(home: FakeDaemon) -> None:
    home.host.boot_output = b""
    operation = await home.engine.labs.up("new", spec(node("c")))
    await home.until("c", N.RUNNING, lab="new")
    key = await home.key("c", "new")
    await home.hypervisor.pause(key)
    await home.until("c", N.PAUSED, lab="new")
    done = await home.engine.operations.wait(operation.id, 5)
    assert done.error is None
    await home.hypervisor.resume(key)
    await home.until("c", N.RUNNING, lab="new")
    home.host.say(key, b"guest: up\n")
    await home.until("c", N.READY, lab="new")


async def test_a_readiness_that_comes_too_late_does_not_overwrite_why_a_node_ended(
    home: FakeDaemon,
) -> None:
    home.host.boot_output = b""
    quick = node("c", ready=Readiness(console="guest: up", timeout=0.1))
    await home.engine.labs.up("new", spec(quick), keep=True)
    await home.until("c", N.RUNNING, lab="new")
    home.host.panic(await home.key("c", "new"))
    await home.until("c", N.PANICKED, lab="new")
    await asyncio.sleep(0.15)
    assert (await home.engine.console.node(NodeRef("new", "c"))).reason == "the guest panicked"
    await home.idle()
    await home.ok(home.engine.labs.act(K.DESTROY, "new"))


@pytest.mark.parametrize("how", ["agent", "command", "tcp"])
async def test_the_other_ways_to_be_ready(home: FakeDaemon, how: str) -> None:
    from labd.model.specs import NicSpec

    nic = NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01", addresses=("10.0.0.1/24",))
    ready = {
        "agent": Readiness(agent=True, timeout=5),
        "command": Readiness(command=("true",), timeout=5),
        "tcp": Readiness(tcp_port=80, timeout=5),
    }[how]
    operation = await home.engine.labs.up("new", spec(node("c", ready=ready, nics=(nic,))))
    await home.until("c", N.RUNNING, lab="new")
    home.host.open_agent(await home.key("c", "new"))
    home.networks.listening.add(("10.0.0.1", 80))
    done = await home.engine.operations.wait(operation.id, 5)
    assert done.error is None
    assert await home.states("new") == {"c": "ready"}


async def test_files_and_startup_commands_come_before_ready(home: FakeDaemon) -> None:
    files = (GuestFile(path="/tmp/x", content="hello\n", mode="0755"),)
    ran: list[tuple[str, ...]] = []

    def result(argv: Sequence[str]) -> ExecResult:
        ran.append(tuple(argv))
        return ExecResult(status=0, stdout=b"", stderr=b"")

    home.host.opens_agent = True
    home.host.exec_result = result
    lab = spec(node("a", files=files, startup=(("one",), ("two", "x"))))
    seq = await home.seq()
    await home.done(home.engine.labs.up("new", lab))
    assert ran == [("chmod", "0755", "/tmp/x"), ("one",), ("two", "x")]
    assert home.host.machines[await home.key("a", "new")].files == {"/tmp/x": b"hello\n"}
    story = await home.story(seq)
    assert story.index("node.ready a") > story.index("node.running a")
    # They are done anew when it boots anew.
    await home.ok(home.engine.labs.act(K.RESTART, "new", ["a"], force=True))
    assert len(ran) == 6


async def test_a_startup_command_that_fails_fails_the_start(home: FakeDaemon) -> None:
    home.host.opens_agent = True
    home.host.exec_result = lambda _: ExecResult(status=3, stdout=b"", stderr=b"no such\nthing")
    error = await home.fails(home.engine.labs.up("new", spec(node("a", startup=(("one",),)))))
    assert "startup of node new/a: 'one' ended with 3: thing" in str(error["message"])
    assert await home.inventory.lab("new") is None


async def test_startup_without_an_agent_is_told_in_time(home: FakeDaemon) -> None:
    lab = spec(node("a", startup=(("one",),), ready=Readiness(timeout=0.5)))
    error = await home.fails(home.engine.labs.up("new", lab))
    assert (
        "node new/a is not ready after 0.5 s: no guest agent that has written its files and run "
        "its startup commands"
    ) in str(error["message"])
