"""What labd may rely on of every driver of nodes; see `DRIVERS`.

Nothing is skipped: a test of a capability runs with the drivers that offer it. Screens, devices and
files of guests have suites of their own (test_screens, test_devices, test_guest_files).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from labd.drivers.node.capabilities import Consoles
from labd.drivers.node.driver import NodeDriver
from labd.drivers.node.port import NodePort
from labd.drivers.node.qemu import QemuHypervisor, VmTimes, driver_of
from labd.model.errors import (
    Conflict,
    LaunchFailed,
    NodeGone,
    NodeUnresponsive,
    StorageFailed,
)
from labd.model.kinds import Capability
from labd.model.machine import Disk, GuestEvent, GuestEventKind, MachineSpec, RunState
from labd.model.process import ProcessId
from labd.model.specs import Accel
from tests.disks import FileDisks, at
from tests.fakes.drivers import fake_driver
from tests.fakes.host import FakeHost
from tests.fakes.light import OFFERS, light_driver
from tests.guests import UP, machine_spec

_K = GuestEventKind


@dataclass(frozen=True)
class Host:
    """Where the machines of one driver run, whatever daemon has them."""

    make: Callable[[], NodeDriver]
    freeze: Callable[[str, ProcessId], None]
    thaw: Callable[[str, ProcessId], None]


def _fake(make: Callable[[FakeHost], NodeDriver]) -> Callable[[Path], Host]:
    def host_in(_: Path) -> Host:
        host = FakeHost()
        return Host(
            make=lambda: make(host),
            freeze=lambda key, _: host.hang(key),
            thaw=lambda key, _: host.recover(key),
        )

    return host_in


def _qemu(root: Path) -> Host:
    root_id = root.name[-8:].replace("_", "-").lower()
    times = VmTimes(deadline=1.0, heartbeat=0.5, greeting=1.0)
    disks = FileDisks()
    return Host(
        make=lambda: driver_of(QemuHypervisor(root_id, root, times, storage=disks), disks),
        freeze=lambda _, process: os.kill(process.pid, signal.SIGSTOP),
        thaw=lambda _, process: os.kill(process.pid, signal.SIGCONT),
    )


# The drivers that have to pass, and what each offers: a later one is a line here.
DRIVERS: Mapping[str, tuple[Callable[[Path], Host], frozenset[Capability]]] = {
    "fake": (_fake(fake_driver), frozenset(Capability)),
    "light": (_fake(light_driver), OFFERS),
    "qemu": (_qemu, frozenset(Capability)),
}


def offering(*capabilities: Capability) -> pytest.MarkDecorator:
    """Run a test with those drivers that offer something."""
    names = [name for name, (_, offers) in DRIVERS.items() if offers.issuperset(capabilities)]
    return pytest.mark.parametrize("rig", names, indirect=True)


every_driver = offering()


@dataclass
class Rig:
    root: Path
    host: Host
    driver: NodeDriver
    events: list[GuestEvent] = field(default_factory=list)

    @property
    def hv(self) -> NodePort:
        return self.driver.port

    @property
    def consoles(self) -> Consoles:
        return self.driver.require(Capability.CONSOLE, self.driver.consoles)

    def new_daemon(self) -> None:
        self.driver = self.host.make()
        self.hv.listen(self.events.append)

    def freeze(self, key: str, process: ProcessId) -> None:
        self.host.freeze(key, process)

    def thaw(self, key: str, process: ProcessId) -> None:
        self.host.thaw(key, process)

    def machine(self, key: str = "k1") -> MachineSpec:
        return replace(machine_spec(self.root, key), kind=self.driver.kind)

    async def up(self, key: str = "k1") -> tuple[MachineSpec, ProcessId]:
        machine = self.machine(key)
        process = await self.hv.launch(machine, {})
        await self.hv.resume(key)
        if Capability.CONSOLE in self.driver.capabilities:
            await asyncio.wait_for(self.consoles.wait_console(key, UP), 20)
        return machine, process

    async def type(self, key: str, text: str) -> None:
        async with self.consoles.console(key) as console:
            await console.write(text.encode())

    async def event(self, kind: GuestEventKind, key: str = "k1", seconds: float = 10) -> GuestEvent:
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if event.kind is kind and event.key == key:
                        self.events.remove(event)
                        return event
                await asyncio.sleep(0.005)


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    root = Path(tempfile.mkdtemp(prefix="labd-hv-"))
    host_in, _ = DRIVERS[request.param]
    host = host_in(root)
    rig = Rig(root=root, host=host, driver=host.make())
    rig.hv.listen(rig.events.append)
    try:
        yield rig
    finally:
        for found in await rig.hv.scan():
            await rig.hv.kill(found.key)
            await rig.hv.kill_process(found.process)
        left = await rig.hv.scan()
        await rig.hv.close()
        shutil.rmtree(root)
        assert not left


@offering(Capability.CONSOLE)
async def test_launch_holds_still_and_resume_lets_go(rig: Rig) -> None:
    machine = rig.machine()
    process = await rig.hv.launch(machine, {})
    assert await rig.hv.query("k1") is RunState.PRELAUNCH
    assert not rig.events
    await rig.hv.resume("k1")
    assert await rig.hv.query("k1") is RunState.RUNNING
    assert (await rig.event(_K.RESUMED)).key == "k1"
    assert UP in await asyncio.wait_for(rig.consoles.wait_console("k1", f"^{UP}$"), 20)
    # also what was said before somebody waited
    assert UP in await asyncio.wait_for(rig.consoles.wait_console("k1", "guest: u."), 5)
    [found] = await rig.hv.scan()
    assert (found.key, found.uuid, found.process) == ("k1", machine.uuid, process)


@every_driver
async def test_taps_are_closed_whatever_happens(rig: Rig) -> None:
    for machine in (rig.machine(), replace(rig.machine("k2"), disks=_missing(rig))):
        reader, writer = os.pipe()
        with contextlib.suppress(LaunchFailed):
            await rig.hv.launch(machine, {"unused": writer})
            await rig.hv.kill(machine.key)  # QEMU holds its own copy
        assert select.select([reader], [], [], 30)[0], "somebody has the other end still"
        assert os.read(reader, 1) == b"", "end of file"
        os.close(reader)


@every_driver
async def test_a_failed_launch_leaves_nothing_and_tells_nothing(rig: Rig) -> None:
    machine = replace(rig.machine(), disks=_missing(rig))
    with pytest.raises(LaunchFailed, match="cannot open"):
        await rig.hv.launch(machine, {})
    assert not await rig.hv.scan()
    assert not rig.events
    assert not machine.run.exists()
    with pytest.raises(NodeGone):
        await rig.hv.query("k1")
    await rig.up()  # and the key is free


@every_driver
async def test_a_key_runs_once(rig: Rig) -> None:
    machine, _ = await rig.up()
    with pytest.raises(LaunchFailed, match="runs already"):
        await rig.hv.launch(machine, {})
    assert await rig.hv.query("k1") is RunState.RUNNING


@every_driver
async def test_unknown_machines_are_gone(rig: Rig) -> None:
    hv = rig.hv
    for call in (hv.resume, hv.pause, hv.reset, hv.power_down, hv.query):
        with pytest.raises(NodeGone):
            await call("nope")
    await hv.kill("nope")
    assert not hv.has("nope")


@offering(Capability.CONSOLE)
async def test_unknown_machines_have_no_console(rig: Rig) -> None:
    with pytest.raises(NodeGone):
        await rig.consoles.wait_console("nope", "x")
    with pytest.raises(NodeGone):
        async with rig.consoles.console("nope"):
            pass


@offering(Capability.AGENT)
async def test_unknown_machines_have_no_agent(rig: Rig) -> None:
    assert rig.driver.agents is not None
    with pytest.raises(NodeGone):
        await rig.driver.agents.agent_ping("nope")


@every_driver
async def test_a_driver_offers_what_it_declares(rig: Rig, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["rig"]
    assert rig.driver.capabilities == DRIVERS[name][1]


@every_driver
async def test_a_machine_is_had_until_it_has_exited(rig: Rig) -> None:
    assert not rig.hv.has("k1")
    machine, process = await rig.up()
    assert rig.hv.has("k1")
    await rig.hv.close()
    rig.new_daemon()
    assert not rig.hv.has("k1")
    await rig.hv.adopt(machine, process)
    assert rig.hv.has("k1")
    rig.freeze("k1", process)
    with pytest.raises(NodeUnresponsive):
        await rig.hv.query("k1")
    assert rig.hv.has("k1")
    rig.thaw("k1", process)
    await rig.hv.kill("k1")
    await rig.event(_K.EXITED)
    assert not rig.hv.has("k1")


@every_driver
async def test_pause_and_resume(rig: Rig) -> None:
    await rig.up()
    await rig.event(_K.RESUMED)
    for _ in range(2):  # idempotent
        await rig.hv.pause("k1")
    assert await rig.hv.query("k1") is RunState.PAUSED
    await rig.event(_K.PAUSED)
    await rig.hv.resume("k1")
    await rig.hv.resume("k1")
    assert await rig.hv.query("k1") is RunState.RUNNING
    await rig.event(_K.RESUMED)
    assert not [event for event in rig.events if event.kind is _K.PAUSED]


@offering(Capability.CONSOLE)
async def test_the_guest_powers_off_and_is_held(rig: Rig) -> None:
    await rig.up()
    await rig.type("k1", "p")
    event = await rig.event(_K.POWERED_OFF)
    assert event.data["reason"] == "guest-shutdown"
    assert event.data["guest"] is True
    await rig.event(_K.PAUSED)
    assert await rig.hv.query("k1") is RunState.SHUTDOWN
    with pytest.raises(Conflict, match="reset"):
        await rig.hv.resume("k1")
    await rig.hv.reset("k1")
    await rig.hv.resume("k1")
    assert await rig.hv.query("k1") is RunState.RUNNING


@offering(Capability.CONSOLE)
async def test_a_panic_is_held_and_reset_helps(rig: Rig) -> None:
    await rig.up()
    await rig.type("k1", "k")
    await rig.event(_K.PANICKED)
    await rig.event(_K.PAUSED)
    assert await rig.hv.query("k1") is RunState.PANICKED
    await rig.hv.reset("k1")
    await rig.event(_K.RESET)
    await rig.hv.resume("k1")
    assert await rig.hv.query("k1") is RunState.RUNNING


@offering(Capability.CONSOLE)
async def test_the_guest_resets_itself(rig: Rig) -> None:
    await rig.up()
    await rig.type("k1", "r")
    event = await rig.event(_K.RESET)
    assert event.data == {"guest": True, "reason": "guest-reset"}
    assert await rig.hv.query("k1") is RunState.RUNNING


@offering(Capability.CONSOLE)
async def test_kill_ends_everything_and_may_be_repeated(rig: Rig) -> None:
    machine, _ = await rig.up()
    waiting = asyncio.ensure_future(rig.consoles.wait_console("k1", "never said"))
    await asyncio.sleep(0.05)
    async with rig.consoles.console("k1") as console:
        await console.read()
        await rig.hv.kill("k1")
        await rig.hv.kill("k1")
        assert await asyncio.wait_for(console.read(), 5) == b""
        with pytest.raises(NodeGone):
            await console.write(b"x")
    with pytest.raises(NodeGone):
        await asyncio.wait_for(waiting, 5)
    await rig.event(_K.EXITED)
    assert not await rig.hv.scan()
    with pytest.raises(NodeGone):
        await rig.hv.query("k1")
    await rig.hv.forget(machine)
    await rig.hv.forget(machine)
    assert not machine.run.exists()


@every_driver
async def test_the_process_is_told_while_it_comes_up(rig: Rig) -> None:
    heard: list[ProcessId] = []

    async def spawned(process: ProcessId) -> None:
        # For a moment it may still be the program that gives up its rights before QEMU.
        async with asyncio.timeout(10):
            while not (found := await rig.hv.scan()):
                await asyncio.sleep(0.01)
        assert [machine.process for machine in found] == [process]
        await asyncio.sleep(0.2)
        heard.append(process)

    assert [await rig.hv.launch(rig.machine(), {}, spawned=spawned)] == heard
    assert await rig.hv.query("k1") is RunState.PRELAUNCH


@every_driver
async def test_a_process_that_cannot_be_written_is_ended(rig: Rig) -> None:
    async def spawned(_: ProcessId) -> None:
        raise StorageFailed("the disk is full")

    with pytest.raises(StorageFailed, match="full"):
        await rig.hv.launch(rig.machine(), {}, spawned=spawned)
    assert not await rig.hv.scan()
    await rig.up()


@offering(Capability.CONSOLE)
async def test_what_is_discarded_is_killed_at_once(rig: Rig) -> None:
    machine, _ = await rig.up()
    async with rig.consoles.console("k1") as console:
        await console.read()
        await rig.hv.kill("k1", discard=True)
        assert await asyncio.wait_for(console.read(), 5) == b""
    event = await rig.event(_K.EXITED)
    assert event.data["status"] == -signal.SIGKILL
    await rig.hv.kill("k1", discard=True)
    other, _ = await rig.up("k2")
    await rig.hv.close()
    rig.new_daemon()
    await rig.hv.adopt(other, (await rig.hv.scan())[0].process)
    await rig.hv.kill("k2", discard=True)
    assert not await rig.hv.scan()
    await rig.hv.forget(machine, other)
    assert not machine.run.exists()
    assert not other.run.exists()


@every_driver
async def test_exited_is_the_last_event(rig: Rig) -> None:
    await rig.up()
    await rig.hv.pause("k1")
    await rig.hv.kill("k1")
    await asyncio.sleep(0.1)
    assert rig.events[-1].kind is _K.EXITED
    assert [event.kind for event in rig.events].count(_K.EXITED) == 1
    assert not [event for event in rig.events if event.kind is _K.POWERED_OFF]


@offering(Capability.CONSOLE)
async def test_viewers_share_the_line(rig: Rig) -> None:
    await rig.up()
    async with rig.consoles.console("k1") as first, rig.consoles.console("k1") as second:
        for viewer in (first, second):
            assert UP.encode() in await asyncio.wait_for(viewer.read(), 5)
        await first.write(b"z")
        for viewer in (first, second):
            assert b"z" in await asyncio.wait_for(viewer.read(), 5)


@every_driver
async def test_a_hung_qemu_is_told_once_recovers_and_can_be_killed(rig: Rig) -> None:
    _, process = await rig.up()
    await rig.up("k2")
    rig.freeze("k1", process)
    try:
        for _ in range(2):
            with pytest.raises(NodeUnresponsive):
                await rig.hv.query("k1")
        await rig.event(_K.UNRESPONSIVE)
        assert await rig.hv.query("k2") is RunState.RUNNING
    finally:
        rig.thaw("k1", process)
    await rig.event(_K.RESPONSIVE)
    assert not [event for event in rig.events if event.kind is _K.UNRESPONSIVE]
    assert await rig.hv.query("k1") is RunState.RUNNING
    rig.freeze("k1", process)
    await rig.hv.kill("k1")
    await rig.event(_K.EXITED)


@offering(Capability.CONSOLE)
async def test_another_daemon_adopts(rig: Rig) -> None:
    machine, process = await rig.up()
    await rig.hv.close()
    rig.events.clear()
    rig.new_daemon()
    with pytest.raises(NodeGone):
        await rig.hv.query("k1")
    assert await rig.hv.adopt(machine, process) is RunState.RUNNING
    assert await rig.hv.query("k1") is RunState.RUNNING
    assert not rig.events
    await rig.type("k1", "p")
    await rig.event(_K.POWERED_OFF)
    await rig.hv.close()
    rig.new_daemon()
    assert await rig.hv.adopt(machine, process) is RunState.SHUTDOWN
    await rig.hv.kill("k1")
    await rig.event(_K.EXITED)


@offering(Capability.CONSOLE)
async def test_what_a_guest_says_while_nobody_listens_is_heard_once(rig: Rig) -> None:
    machine = rig.machine()
    process = await rig.hv.launch(machine, {})
    await rig.hv.resume("k1")
    await rig.hv.close()  # before a real guest can have said anything
    await asyncio.sleep(2)
    for _ in range(2):
        rig.new_daemon()
        assert await rig.hv.adopt(machine, process) is RunState.RUNNING
        await asyncio.wait_for(rig.consoles.wait_console("k1", UP), 20)
        async with rig.consoles.console("k1") as console:
            said = await console.read()
        assert said.count(UP.strip("^$").encode()) == 1
        await rig.hv.close()
    rig.new_daemon()
    await rig.hv.adopt(machine, process)


@every_driver
async def test_only_that_very_process_is_adopted(rig: Rig) -> None:
    machine, process = await rig.up()
    await rig.hv.close()
    rig.new_daemon()
    older = replace(process, start_time_ticks=process.start_time_ticks - 1)
    other = replace(machine, uuid="6d0a3f9e-0000-4000-8000-00000000ffff")
    for spec, identity in ((machine, older), (other, process)):
        with pytest.raises(NodeGone):
            await rig.hv.adopt(spec, identity)
    assert await rig.hv.adopt(machine, process) is RunState.RUNNING


@every_driver
async def test_a_hung_qemu_is_adopted_and_recovers(rig: Rig) -> None:
    machine, process = await rig.up()
    await rig.hv.close()
    rig.freeze("k1", process)
    rig.new_daemon()
    try:
        with pytest.raises(NodeUnresponsive):
            await rig.hv.adopt(machine, process)
        with pytest.raises(NodeUnresponsive):
            await rig.hv.query("k1")
    finally:
        rig.thaw("k1", process)
    await rig.event(_K.RESPONSIVE)
    assert await rig.hv.query("k1") is RunState.RUNNING


@every_driver
async def test_strays_are_found_and_ended(rig: Rig) -> None:
    _, process = await rig.up()
    await rig.hv.close()
    rig.new_daemon()
    [found] = await rig.hv.scan()
    assert found.process == process
    await rig.hv.kill_process(process)
    await rig.hv.kill_process(process)
    assert not await rig.hv.scan()


@offering(Capability.ACCELERATOR)
async def test_accel_can_be_forced_to_tcg(rig: Rig) -> None:
    assert rig.driver.accelerators is not None
    choice = await rig.driver.accelerators.accel(Accel.TCG)
    assert (choice.kvm, choice.warning) == (False, "")
    auto = await rig.driver.accelerators.accel(Accel.AUTO)
    assert auto.kvm or auto.warning


def _missing(rig: Rig) -> tuple[Disk, ...]:
    [disk] = rig.machine().disks
    return (replace(disk, ref=at(rig.root / "missing.img")),)
