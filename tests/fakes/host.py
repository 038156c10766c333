"""A host in memory: its machines, which outlive a `FakeHypervisor` as processes outlive the daemon.

Tests play the guest, and what befalls QEMU, through the host: `power_off`, `panic`, `say`, `die`,
`hang`, `recover`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from labd.host.timelog import TimeIndex
from labd.model.disks import DiskRef
from labd.model.errors import NodeGone
from labd.model.machine import (
    AccelChoice,
    CpuSetting,
    ExecResult,
    GuestEvent,
    GuestEventKind,
    MachineSpec,
    RunState,
)
from labd.model.process import ProcessId
from tests.disks import path_of

_K = GuestEventKind


class Daemon(Protocol):
    """Who is told what happens to machines."""

    def told(self, event: GuestEvent) -> None:
        """Take an event."""


class FakeViewer:
    """One viewer of a fake serial line."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False
        if machine.output:
            self._queue.put_nowait(bytes(machine.output[-4096:]))

    def feed(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    async def read(self) -> bytes:
        if self._ended and self._queue.empty():
            return b""
        data = await self._queue.get()
        self._ended = self._ended or not data
        return data

    async def write(self, data: bytes) -> None:
        if not self._machine.alive:
            raise NodeGone(f"{self._machine.name} has ended")
        self._machine.typed += data
        self._machine.host.typed(self._machine, data)


@dataclass
class FakeMachine:
    """One fake QEMU process."""

    host: FakeHost
    spec: MachineSpec
    process: ProcessId
    state: RunState = RunState.PRELAUNCH
    alive: bool = True
    hung: bool = False
    agent: bool = False
    output: bytearray = field(default_factory=bytearray)
    typed: bytearray = field(default_factory=bytearray)
    files: dict[str, bytes] = field(default_factory=dict)
    dark: set[str] = field(default_factory=set)  # NICs without a carrier
    viewers: set[FakeViewer] = field(default_factory=set)
    waiters: dict[asyncio.Future[str], re.Pattern[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.spec.lab}/{self.spec.node}"


class FakeHost:
    """What survives a daemon: the processes.

    Attributes:
        machines: Living machines by key.
        boot_output: What each guest writes once its CPUs run first, or after a reset.
        obeys_power_down: Guests power off when asked.
        opens_agent: Guests open the agent's port once their CPUs run.
        fail_launch: key -> message; such a launch fails with it. The key "*" is every machine.
        exec_result: What the agent says to a command; set a function to choose by argv.
        falls: What the next starts come to: `refuse` (there is no QEMU), or `die`, `panic` or
            `power_off` as the guest boots.
        shell: What runs the commands of each guest instead, if it is set.
        kvm: What `accel: auto` comes to.
        dead_cpus: With these, KVM dies.
        stuck: Keys of machines whose process does not end when it is killed, as one in state D.
        patience: Seconds that the adoption of a machine that hangs waits for it.
        waiting: Adoptions that wait so, now and the most at one time.
    """

    def __init__(self, first_pid: int = 100_000) -> None:
        self.has_disk: Callable[[DiskRef], bool] = lambda ref: path_of(ref).is_file()
        self.patience = 0.0
        self.waiting = [0, 0]
        self.machines: dict[str, FakeMachine] = {}
        self.boot_output = b"guest: up\r\n"
        self.obeys_power_down = True
        self.opens_agent = False
        self.fail_launch: dict[str, str] = {}
        self.exec_result: Callable[[Sequence[str]], ExecResult] = lambda _: ExecResult(
            status=0, stdout=b"", stderr=b""
        )
        self.falls: list[str] = []
        self.shell: Callable[[FakeMachine, Sequence[str]], ExecResult] | None = None
        self.kvm = AccelChoice(kvm=False, warning="there is no KVM in a fake")
        self.dead_cpus: set[CpuSetting] = set()
        self.stuck: set[str] = set()
        self.clings: set[str] = set()
        self.no_place: set[str] = set()
        self.daemon: Daemon | None = None
        self._pids = iter(range(first_pid, first_pid + 100_000))

    # the guest

    def say(self, key: str, data: bytes) -> None:
        """Have the guest write to its serial line."""
        machine = self.machines[key]
        machine.output += data
        if data and machine.spec.run.is_dir():  # it goes with its node
            _log(machine.spec.run / "console.log", bytes(machine.output), len(data))
        for viewer in machine.viewers:
            viewer.feed(data)
        for waiter, pattern in list(machine.waiters.items()):
            for line in machine.output.decode(errors="replace").splitlines():
                if not waiter.done() and pattern.search(line):
                    waiter.set_result(line)

    def typed(self, machine: FakeMachine, data: bytes) -> None:
        """Obey as the guest of tests/guests.py does."""
        key = machine.spec.key
        for letter in data.decode():
            match letter:
                case "p":
                    self.power_off(key)
                case "r":
                    self.reset(key, guest=True)
                case "k":
                    self.panic(key)
                case _:
                    self.say(key, letter.encode())

    def power_off(self, key: str) -> None:
        """Have the guest power off; QEMU holds it."""
        self.machines[key].state = RunState.SHUTDOWN
        self.emit(key, _K.POWERED_OFF, guest=True, reason="guest-shutdown")
        self.emit(key, _K.PAUSED)

    def panic(self, key: str) -> None:
        """Have the guest panic; QEMU holds it."""
        self.machines[key].state = RunState.PANICKED
        self.emit(key, _K.PANICKED, action="pause")
        self.emit(key, _K.PAUSED)

    def reset(self, key: str, *, guest: bool) -> None:
        """Reset the machine."""
        machine = self.machines[key]
        reason = "guest-reset" if guest else "host-qmp-system-reset"
        self.emit(key, _K.RESET, guest=guest, reason=reason)
        if machine.state is RunState.RUNNING:
            self.boot(key)
        else:
            machine.state = RunState.PRELAUNCH

    def boot(self, key: str) -> None:
        """Have the guest start."""
        if self.falls:
            getattr(self, self.falls.pop(0))(key)
            return
        if self.boot_output:
            self.say(key, self.boot_output)
        if self.opens_agent:
            self.open_agent(key)

    def open_agent(self, key: str) -> None:
        """Have the guest agent open its port."""
        self.machines[key].agent = True
        self.emit(key, _K.AGENT_OPENED)

    # what befalls QEMU

    def die(self, key: str, *, status: int = -9, stderr: str = "") -> None:
        """End the process."""
        machine = self.machines.pop(key)
        machine.alive = False
        for viewer in machine.viewers:
            viewer.feed(b"")
        for waiter in machine.waiters:
            if not waiter.done():
                waiter.set_exception(NodeGone(f"{machine.name} has ended"))
        data: dict[str, object] = {"status": status, "stderr": stderr}
        if status == -9:
            data["signal"] = "SIGKILL"
        if self.daemon is not None:
            self.daemon.told(GuestEvent(key=key, kind=_K.EXITED, time=time.time(), data=data))

    def let_end(self, key: str) -> None:
        """Have the kernel let a process go that was killed while it was stuck."""
        self.stuck.discard(key)
        self.die(key)

    def hang(self, key: str) -> None:
        """Have QEMU answer no more; the next call tells."""
        self.machines[key].hung = True

    def recover(self, key: str) -> None:
        """Have QEMU answer again."""
        self.machines[key].hung = False
        self.emit(key, _K.RESPONSIVE)

    def emit(self, key: str, kind: GuestEventKind, **data: object) -> None:
        """Send an event to the daemon, if there is one."""
        if self.daemon is not None:
            self.daemon.told(GuestEvent(key=key, kind=kind, time=time.time(), data=data))

    def start(self, spec: MachineSpec) -> FakeMachine:
        """Start a process."""
        pid = next(self._pids)
        process = ProcessId(pid=pid, start_time_ticks=pid * 7, boot_id="fake-boot")
        machine = self.machines[spec.key] = FakeMachine(host=self, spec=spec, process=process)
        return machine


def _log(path: Path, output: bytes, new: int) -> None:
    """Write the log of a serial line, whose last `new` bytes have just come."""
    index = TimeIndex(path)
    index.open(len(output) - new)
    index.note(index.base + len(output) - new)
    index.close()
    path.write_bytes(output)
