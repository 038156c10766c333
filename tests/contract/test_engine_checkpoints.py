"""Saving, forking and going back, on fakes: what is written, and that nothing half made stays."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from labd.model.checkpoints import HostFacts, SaveMode
from labd.model.errors import (
    Conflict,
    GuestAgentAbsent,
    IllegalTransition,
    InputError,
    InUse,
    LabdError,
    NoRoom,
    NotFound,
    StorageFailed,
)
from labd.model.machine import AccelChoice, CpuSetting, ExecResult, RunState
from labd.model.names import NodeRef
from labd.model.records import OperationKind, OperationRecord
from labd.model.specs import LabSpec
from labd.model.states import LabState, NodeState
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind
LAB = spec(node("a"), node("b", "a"))
READY = {"a": "ready", "b": "ready"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def save(
    home: FakeDaemon, name: str = "c", mode: SaveMode = SaveMode.LIVE
) -> OperationRecord:
    return await home.ok(home.engine.checkpoints.save("web", name, mode=mode, message=""))


async def fork(home: FakeDaemon, lab: str = "copy", checkpoint: str = "c", **how: str) -> None:
    for operation in await home.engine.checkpoints.fork(checkpoint, lab, count=0, settings=how):
        await home.ok(home.engine.operations.get(operation.id))


async def still_runs(home: FakeDaemon, lab: str = "web") -> None:
    assert await home.states(lab) == READY
    for name in READY:
        assert home.host.machines[await home.key(name, lab)].state is RunState.RUNNING


async def test_a_live_save_is_no_pause(home: FakeDaemon) -> None:
    await home.up(LAB)
    seq = await home.seq()
    await save(home)
    told = [line for line in await home.story(seq) if "progress" not in line]
    assert told == [
        "operation.started checkpoint",
        "checkpoint.saved c",
        "operation.succeeded checkpoint",
    ]
    await still_runs(home)
    view = await home.engine.checkpoints.get("c")
    assert [saved.name for saved in view.record.nodes] == ["a", "b"]
    assert view.labs == ()
    # The source stands on what the store has now, and has a new top of its own.
    machine = (await home.engine.console.node(NodeRef("web", "a"))).machine
    assert machine is not None
    (disk,) = machine.disks
    assert home.checkpoints.digest_of(disk.backing[0][0]) in home.checkpoints.layers
    assert home.storage.there(disk.ref)
    assert [path.name for path in machine.folder.iterdir()] == [disk.ref.name]
    await home.check()


async def test_a_save_that_stops_the_lab(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home, mode=SaveMode.STOP)
    assert await home.states() == {"a": "stopped", "b": "stopped"}
    assert (await home.lab()).state is LabState.STOPPED
    await fork(home)
    await still_runs(home, "copy")
    await home.act(K.START)
    await home.check()


async def test_a_fork_has_what_was_said_before(home: FakeDaemon) -> None:
    await home.up(LAB)
    home.host.say(await home.key("a"), b"a secret\n")
    await save(home)
    seq = await home.seq()
    await fork(home)
    copy = home.host.machines[await home.key("a", "copy")]
    assert b"a secret" in copy.output
    assert copy.spec.machine_type == "pc-q35-7.2"
    story = await home.story(seq)
    assert story.index("node.running a") > max(
        story.index("node.starting a"), story.index("node.starting b")
    ), "all are restored before one is let go"
    assert (await home.engine.checkpoints.get("c")).labs == ("copy",)
    assert sorted(home.snapshots.announced) == sorted(
        [await home.key("a", "copy"), await home.key("b", "copy")]
    )
    await still_runs(home)
    await home.check()


async def test_a_fork_is_a_lab_like_any_other(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    await fork(home)
    (top,) = home.host.machines[await home.key("a", "copy")].spec.disks
    await home.ok(home.engine.labs.act(K.DOWN, "copy", force=True))
    await home.ok(home.engine.labs.act(K.START, "copy"))
    (again,) = home.host.machines[await home.key("a", "copy")].spec.disks
    assert again == top, "it boots from its own disk on the frozen ones"
    await home.ok(home.engine.labs.act(K.DESTROY, "copy", force=True))
    await home.check()


async def test_on_fork_comes_before_ready(home: FakeDaemon) -> None:
    command = ("hostname", "x")
    home.host.opens_agent = True
    ran: list[tuple[str, ...]] = []

    def result(argv: object) -> ExecResult:
        ran.append(tuple(argv))  # type: ignore[arg-type]
        return ExecResult(status=0, stdout=b"", stderr=b"")

    home.host.exec_result = result
    await home.up(spec(node("a", on_fork=(command,))))
    await save(home)
    seq = await home.seq()
    await fork(home, student="ann")
    assert ran == [("env", "LABD_STUDENT=ann", "LABD_LAB=copy", *command)]
    story = await home.story(seq)
    assert story.index("node.ready a") > story.index("node.running a")
    home.host.exec_result = lambda _: ExecResult(status=3, stdout=b"", stderr=b"no such\nthing")
    (operation,) = await home.engine.checkpoints.fork("c", "bad", count=0, settings={})
    error = await home.fails(home.engine.operations.get(operation.id))
    assert error["message"] == "on_fork of node bad/a: 'hostname' ended with 3: thing"
    assert await home.inventory.lab("bad") is None
    await home.check()


async def test_a_guest_that_ends_while_it_is_told_is_told_as_such(home: FakeDaemon) -> None:
    home.host.opens_agent = True
    await home.up(spec(node("a", on_fork=(("hostname", "x"),))))
    await save(home)

    def end(_: object) -> ExecResult:
        home.host.die(next(m.spec.key for m in home.host.machines.values() if m.spec.lab == "x"))
        raise GuestAgentAbsent("the guest agent of x/a is not there")

    home.host.exec_result = end
    (asked,) = await home.engine.checkpoints.fork("c", "x", count=0, settings={})
    error = await home.fails(home.engine.operations.get(asked.id))
    assert error["code"] == "node_gone"
    assert await home.inventory.lab("x") is None
    await home.check()


async def test_guests_are_told_when_all_forks_run(home: FakeDaemon) -> None:
    home.host.opens_agent = True
    await home.up(spec(node("a")))
    await save(home)
    home.snapshots.slow["f-2"] = asyncio.Event()
    seq = await home.seq()
    begun = await home.engine.checkpoints.fork("c", "f", count=2, settings={})
    async with asyncio.timeout(10):
        while "node.running a" not in await home.story(seq):
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert home.snapshots.announced == [await home.key("a", "f-1")]
    assert home.snapshots.clocks == [], "the other one is being loaded"
    home.snapshots.slow["f-2"].set()
    for operation in begun:
        await home.ok(home.engine.operations.get(operation.id))
    assert set(home.snapshots.clocks) == {await home.key("a", lab) for lab in ("f-1", "f-2")}
    await home.check()


async def test_a_lab_goes_back_in_place(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    home.host.say(await home.key("a"), b"a late word\n")
    key = await home.key("a")
    await home.ok(home.engine.checkpoints.restore("web", "c"))
    assert await home.key("a") == key
    assert b"a late word" not in home.host.machines[key].output
    await still_runs(home)
    before = home.host.machines[await home.key("b")].process
    await home.ok(home.engine.checkpoints.restore("web", nodes=["a"]))
    assert home.host.machines[await home.key("b")].process == before
    await still_runs(home)
    # A damaged checkpoint ends nothing.
    home.checkpoints.fail = {"incoming": StorageFailed("a.ram is not what was saved")}
    key = await home.key("a")
    running = home.host.machines[key].process
    error = await home.fails(home.engine.checkpoints.restore("web", "c"))
    assert error["message"] == "a.ram is not what was saved"
    assert home.host.machines[key].process == running
    await still_runs(home)
    await home.check()


async def test_chapters(home: FakeDaemon) -> None:
    book = replace(LAB, chapters=("one", "two"))
    await home.up(book)
    with pytest.raises(Conflict, match="is in no chapter yet"):
        await home.engine.checkpoints.chapter("web", again=True)
    with pytest.raises(NotFound, match="no checkpoint one, which is chapter 1 of lab web; save it"):
        await home.engine.checkpoints.chapter("web", again=False)
    await save(home, "one")
    await save(home, "two")
    for again, name in ((False, "one"), (True, "one"), (False, "two")):
        await home.ok(home.engine.checkpoints.chapter("web", again=again))
        assert (await home.lab()).origin == (await home.engine.checkpoints.get(name)).record.key
    with pytest.raises(Conflict, match="is in its last chapter, two"):
        await home.engine.checkpoints.chapter("web", again=False)
    await home.up(LAB, "plain")
    with pytest.raises(InputError, match="has no chapters"):
        await home.engine.checkpoints.chapter("plain", again=False)


async def test_what_is_refused_changes_nothing(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    api = home.engine.checkpoints
    seq = await home.seq()

    async def refused(kind: type[LabdError], text: str, asked: object) -> None:
        with pytest.raises(kind, match=text):
            await asked  # type: ignore[misc]

    def ask(checkpoint: str = "c", name: str = "x", count: int = 0, setting: str = "a") -> object:
        return api.fork(checkpoint, name, count=count, settings={setting: "1"})

    mode = SaveMode.LIVE
    await refused(Conflict, "a checkpoint c already", api.save("web", "c", mode=mode, message=""))
    await refused(InputError, "name 'C'", api.save("web", "C", mode=mode, message=""))
    await refused(InputError, "one line", api.save("web", "d", mode=mode, message="a\nb"))
    await refused(NotFound, "no lab nope", api.save("nope", "d", mode=mode, message=""))
    await refused(NotFound, "no checkpoint d; known: c", ask("d"))
    await refused(Conflict, "a lab web already", ask(name="web"))
    await refused(InputError, "501 copies", ask(count=501))
    await refused(InputError, "'a-b' cannot be a name", ask(setting="a-b"))
    other = replace(LAB, nodes=(LAB.nodes[0],))
    await refused(
        InputError,
        "does not fit checkpoint c: it would remove node b",
        api.fork("c", "x", count=0, settings={}, spec=other),
    )
    await refused(Conflict, "not started from a checkpoint", api.restore("web"))
    home.memory = 0
    await refused(NoRoom, "3 forks of c do not fit: each .*, enough for 0; ask", ask(count=3))
    await refused(NoRoom, "lab x does not fit", ask())
    home.memory = 1 << 40
    home.snapshots.host_facts = HostFacts(qemu="9.0.0", machines=frozenset({"pc-q35-7.2"}))
    await refused(InputError, "software emulation", ask())
    home.snapshots.host_facts = HostFacts(qemu="7.2.0", machines=frozenset({"pc-q35-7.2"}))
    home.checkpoints.layers.clear()
    await refused(StorageFailed, "no layer", ask())
    assert await home.seq() == seq
    await home.act(K.STOP, "b", force=True)
    await refused(
        IllegalTransition, "cannot save web/b: it is", api.save("web", "d", mode=mode, message="")
    )


async def test_what_ran_by_kvm_is_not_forked_without(home: FakeDaemon) -> None:
    home.host.kvm = AccelChoice(kvm=True)
    await home.up(LAB)
    await save(home)
    await fork(home)
    home.host.kvm = AccelChoice(kvm=False, warning="there is none")
    seq = await home.seq()
    with pytest.raises(InputError, match="a was saved with KVM, and there is no KVM in a fake; "):
        await home.engine.checkpoints.fork("c", "x", count=0, settings={})
    with pytest.raises(InputError, match="was saved with KVM"):
        await home.engine.checkpoints.restore("web", "c")
    assert await home.seq() == seq


async def test_a_copy_gets_the_cpu_that_was_saved(home: FakeDaemon) -> None:
    home.host.kvm = AccelChoice(kvm=True, cpu=CpuSetting.NO_ARCH_CAPABILITIES)
    await home.up(LAB)
    await save(home)
    home.host.kvm = AccelChoice(kvm=True)  # another host, or one with a newer kernel
    await fork(home)
    machines = home.host.machines
    cpus = {machines[await home.key(name, "copy")].spec.cpu for name in READY}
    assert cpus == {CpuSetting.NO_ARCH_CAPABILITIES}
    await home.up(LAB, "fresh")
    assert machines[await home.key("a", "fresh")].spec.cpu is CpuSetting.HOST


async def test_a_cpu_that_was_saved_and_dies_here_is_refused(home: FakeDaemon) -> None:
    home.host.kvm = AccelChoice(kvm=True)
    await home.up(LAB)
    await save(home)
    home.host.kvm = AccelChoice(kvm=True, cpu=CpuSetting.NO_ARCH_CAPABILITIES)
    home.host.dead_cpus = {CpuSetting.HOST}
    seq = await home.seq()
    why = "a was saved with KVM, and KVM runs no machine with -cpu host,migratable=on here; save"
    with pytest.raises(InputError, match=why):
        await home.engine.checkpoints.fork("c", "x", count=0, settings={})
    with pytest.raises(InputError, match=why):
        await home.engine.checkpoints.restore("web", "c")
    assert await home.seq() == seq


async def test_an_edit_leaves_a_running_machine_its_cpu(home: FakeDaemon) -> None:
    home.host.kvm = AccelChoice(kvm=True, cpu=CpuSetting.NO_ARCH_CAPABILITIES)
    await home.up(LAB)
    home.host.kvm = AccelChoice(kvm=True)
    await home.up(spec(node("a"), node("b", "a"), node("c")))
    nodes = {item.name: item for item in await home.inventory.nodes("web")}
    cpus = {name: item.machine.cpu for name, item in nodes.items() if item.machine is not None}
    old, new = CpuSetting.NO_ARCH_CAPABILITIES, CpuSetting.HOST
    assert cpus == {"a": old, "b": old, "c": new}


async def test_a_checkpoint_in_use_stays(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    await fork(home)
    with pytest.raises(InUse, match="checkpoint c is in use by copy; destroy it first"):
        await home.engine.checkpoints.remove("c")
    await home.ok(home.engine.labs.act(K.DESTROY, "copy", force=True))
    await home.ok(home.engine.labs.act(K.DESTROY, "web", force=True))
    with pytest.raises(InUse, match="checkpoint c"):
        await home.engine.images.remove("disk")
    await home.up(LAB)
    await save(home, "d")
    layers = set(home.checkpoints.layers)
    await home.engine.checkpoints.remove("c")
    await home.engine.checkpoints.remove("d")
    assert home.checkpoints.layers, "the source stands on its own"
    assert set(home.checkpoints.layers) <= layers
    await home.ok(home.engine.labs.act(K.DESTROY, "web", force=True))
    assert home.checkpoints.layers == {}
    await home.check()


@pytest.mark.parametrize("verb", ["stage", "absorb", "add_layer", "publish"])
async def test_a_save_that_fails_leaves_the_lab_running(home: FakeDaemon, verb: str) -> None:
    await home.up(LAB)
    for mode in SaveMode:
        home.checkpoints.fail = {verb: StorageFailed("the disk is full")}
        error = await home.fails(home.engine.checkpoints.save("web", "c", mode=mode, message=""))
        assert error["message"] == "the disk is full"
        home.checkpoints.fail = {}
        await still_runs(home)
        await home.check()
    await save(home)
    await fork(home)


async def test_a_fork_that_fails_leaves_nothing(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    home.checkpoints.fail = {"incoming": StorageFailed("b.ram is not what was saved")}
    (operation,) = await home.engine.checkpoints.fork("c", "copy", count=0, settings={})
    assert "b.ram" in str((await home.fails(home.engine.operations.get(operation.id)))["message"])
    assert await home.inventory.lab("copy") is None
    await still_runs(home)
    await home.check()


# the daemon dies at any call


async def die_saving(tmp_path: Path, at: int, mode: SaveMode, *, before: bool) -> bool:
    """Let a daemon die at its call number `at` of a save; tell whether it did."""
    async with engine_over_fakes(tmp_path) as home:
        await home.up(LAB)
        home.crash.calls.clear()
        home.crash.at, home.crash.before = at, before
        try:
            asked = await home.engine.checkpoints.save("web", "c", mode=mode, message="")
            await home.ended_or_dead(asked.id)
        except LabdError:
            assert home.crash.dead.is_set()
        died, calls = home.crash.dead.is_set(), home.crash.calls[-2:]
        await home.restart()
        await home.idle()
        await home.settled()
        records = await home.inventory.checkpoints()
        if mode is SaveMode.LIVE or not records:
            await still_runs(home)
        else:
            assert await home.states() == {"a": "stopped", "b": "stopped"}, calls
            assert (await home.lab()).state is LabState.STOPPED
        await home.check()
        if records:
            await fork(home)
            await still_runs(home, "copy")
    return died


@pytest.mark.parametrize("mode", SaveMode)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_death_at_any_call_of_a_save(tmp_path: Path, before: bool, mode: SaveMode) -> None:
    at = 1
    while await die_saving(tmp_path / str(at), at, mode, before=before):
        at += 1
    assert at > 3


TOLD = spec(node("a", on_fork=(("hostname", "x"),)), node("b"))


async def die_forking(tmp_path: Path, at: int, *, before: bool, lab: LabSpec) -> bool:
    """Let a daemon die at its call number `at` of a fork; tell whether it did."""
    async with engine_over_fakes(tmp_path) as home:
        ran: list[tuple[str, ...]] = []

        def result(argv: Sequence[str]) -> ExecResult:
            ran.append(tuple(argv))
            return ExecResult(status=0, stdout=b"", stderr=b"")

        home.host.opens_agent, home.host.exec_result = True, result
        await home.up(lab)
        await save(home)
        home.crash.calls.clear()
        home.crash.at, home.crash.before = at, before
        try:
            (asked,) = await home.engine.checkpoints.fork("c", "copy", count=0, settings={})
            await home.ended_or_dead(asked.id)
        except LabdError:
            assert home.crash.dead.is_set()
        died, first = home.crash.dead.is_set(), home.snapshots
        await home.restart()
        await home.idle()
        if await home.inventory.lab("copy") is not None:
            await still_runs(home, "copy")
            keys = {await home.key(name, "copy") for name in READY}
            assert bool(ran) is (lab is TOLD), "a copy is told what it is, whoever died"
            assert {*first.authorized, *home.snapshots.authorized} == keys
            assert {*first.clocks, *home.snapshots.clocks} == keys
            assert {*first.announced, *home.snapshots.announced} == keys
        await still_runs(home)
        await home.check()
    return died


@pytest.mark.parametrize("lab", [LAB, TOLD], ids=["plain", "told"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_death_at_any_call_of_a_fork(tmp_path: Path, before: bool, lab: LabSpec) -> None:
    at = 1
    while await die_forking(tmp_path / str(at), at, before=before, lab=lab):
        at += 1
    assert at > 3


async def test_a_copy_of_a_lab_that_boots_gets_ready_like_any_other(home: FakeDaemon) -> None:
    lab = spec(node("a"), node("b", on_fork=(("hostname", "x"),)))
    await home.up(lab)
    home.host.boot_output = b""
    for machine in home.host.machines.values():
        machine.output.clear()
    await home.ok(home.engine.labs.act(K.RESET, "web"))
    assert await home.states() == {"a": "running", "b": "running"}
    await save(home)
    (asked,) = await home.engine.checkpoints.fork("c", "copy", count=0, settings={})
    await home.until("b", NodeState.RUNNING, lab="copy")
    told = await home.key("b", "copy")
    assert await home.states("copy") == {"a": "running", "b": "running"}
    home.host.machines[told].agent = True  # begun by the guest, later than the save
    await home.ok(home.engine.operations.get(asked.id))
    assert set(home.snapshots.authorized) == {told}
    for name in ("a", "b"):
        home.host.say(await home.key(name, "copy"), b"guest: up\n")
        await home.until(name, NodeState.READY, lab="copy")
    await home.check()


async def resumed_fork(home: FakeDaemon, still: Callable[[str], None]) -> tuple[str, str]:
    """Let a daemon die before its fork is told what it is; return key and operation."""
    home.host.opens_agent = True
    await home.up(LAB)
    await save(home)
    home.crash.name = "set_clock"
    (asked,) = await home.engine.checkpoints.fork("c", "copy", count=0, settings={})
    await home.ended_or_dead(asked.id)
    key = await home.key("a", "copy")
    still(key)
    await home.restart()
    return key, asked.id


async def test_a_copy_that_hangs_is_told_when_it_answers(home: FakeDaemon) -> None:
    key, operation = await resumed_fork(home, home.host.hang)
    await home.until("a", NodeState.UNRESPONSIVE, lab="copy")
    assert key not in home.snapshots.clocks
    home.host.recover(key)
    await home.ok(home.engine.operations.get(operation))
    assert key in home.snapshots.clocks
    assert key in home.snapshots.authorized
    await still_runs(home, "copy")
    await home.check()


async def test_a_copy_that_stands_still_untold_is_taken_back(home: FakeDaemon) -> None:
    def pause(key: str) -> None:
        home.host.machines[key].state = RunState.PAUSED

    _, operation = await resumed_fork(home, pause)
    error = await home.fails(home.engine.operations.get(operation))
    assert error["message"] == (
        "node copy/a is paused and cannot be told that it is a copy; ask for it again"
    )
    assert await home.inventory.lab("copy") is None
    await still_runs(home)
    await home.check()


async def test_a_copy_has_a_balloon_if_the_source_had_one(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)
    (record,) = await home.inventory.checkpoints()
    assert all(item.balloon for item in record.nodes)
    old = replace(record, nodes=tuple(replace(item, balloon=False) for item in record.nodes))
    async with home.inventory.transaction() as tx:
        await tx.delete_checkpoint("c")
        await tx.put_checkpoint(old)
    await fork(home, "x")
    assert not home.host.machines[await home.key("a", lab="x")].spec.balloon
    # Booted anew, it is a machine as any other.
    await home.ok(home.engine.labs.act(K.RESTART, "x", force=True))
    assert home.host.machines[await home.key("a", lab="x")].spec.balloon


def kept() -> Counter[str]:
    gc.collect()
    kinds = (asyncio.Lock, asyncio.Event, asyncio.Task)
    return Counter(type(item).__name__ for item in gc.get_objects() if isinstance(item, kinds))


async def test_nothing_is_kept_of_labs_that_are_gone(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home)

    async def cycle(number: int) -> None:
        await home.up(LAB, f"u{number}")
        await fork(home, f"f{number}")
        for lab in (f"u{number}", f"f{number}"):
            await home.ok(home.engine.labs.act(K.DESTROY, lab, force=True))
        await home.settled()

    await cycle(1)
    before = kept()
    for number in range(2, 6):
        await cycle(number)
    left = kept() - before
    for _ in range(100):  # what loops of the engine hold at this very moment goes by itself
        if left:
            await asyncio.sleep(0.05)
            left = kept() - before
    assert left == Counter()
