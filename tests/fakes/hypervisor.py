"""A hypervisor in memory, with the same contract as QEMU's adapter (test_hypervisor.py).

`FakeHost` is the host: it outlives a `FakeHypervisor`, as processes outlive the daemon. Tests play
the guest, and what befalls QEMU, through the host: `power_off`, `panic`, `say`, `die`, `hang`,
`recover`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from labd.model.errors import (
    AcceleratorFailed,
    Conflict,
    GuestAgentAbsent,
    LaunchFailed,
    NodeGone,
    NodeStuck,
    NodeUnresponsive,
)
from labd.model.machine import (
    AccelChoice,
    CpuSetting,
    ExecResult,
    FoundMachine,
    GuestEvent,
    GuestEventKind,
    MachineSpec,
    RunState,
)
from labd.model.process import ProcessId
from labd.model.specs import Accel

_K = GuestEventKind


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
        kvm: What `accel: auto` comes to.
        dead_cpus: With these, KVM dies.
        stuck: Keys of machines whose process does not end when it is killed, as one in state D.
        patience: Seconds that the adoption of a machine that hangs waits for it.
        waiting: Adoptions that wait so, now and the most at one time.
    """

    def __init__(self) -> None:
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
        self.kvm = AccelChoice(kvm=False, warning="there is no KVM in a fake")
        self.dead_cpus: set[CpuSetting] = set()
        self.clings: set[str] = set()
        self.stuck: set[str] = set()
        self.no_place: set[str] = set()
        self.daemon: FakeHypervisor | None = None
        self._pids = iter(range(100_000, 200_000))

    # the guest

    def say(self, key: str, data: bytes) -> None:
        """Have the guest write to its serial line."""
        machine = self.machines[key]
        machine.output += data
        if machine.spec.run.is_dir():  # it goes with its node
            (machine.spec.run / "console.log").write_bytes(machine.output)
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


class FakeHypervisor:
    """`drivers.node.port.Hypervisor` on a FakeHost."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self.host.daemon = self
        self.calls: list[tuple[str, str]] = []  # (verb, key)
        self._listener: Callable[[GuestEvent], None] = lambda _: None
        self._known: set[str] = set()
        self._told_hung: set[str] = set()
        self._told_stuck: set[str] = set()

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        self._listener = listener

    def told(self, event: GuestEvent) -> None:
        if event.key not in self._known:
            return
        if event.kind is _K.EXITED:
            self._known.discard(event.key)
        if event.kind is _K.RESPONSIVE:
            self._told_hung.discard(event.key)
        self._listener(event)

    async def accel(self, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        match wanted:
            case Accel.TCG:
                return AccelChoice(kvm=False)
            case Accel.KVM if not self.host.kvm.kvm:
                raise LaunchFailed("there is no KVM in a fake; set accel: tcg")
            case Accel.KVM if cpu is not None:
                if cpu in self.host.dead_cpus:
                    raise AcceleratorFailed(f"KVM runs no machine with -cpu {cpu} here; try others")
                return AccelChoice(kvm=True, cpu=cpu)
        return self.host.kvm

    async def launch(self, machine: MachineSpec, taps: Mapping[str, int]) -> ProcessId:
        self.calls.append(("launch", machine.key))
        for fd in taps.values():
            os.close(fd)
        await asyncio.sleep(0)
        if machine.key in self.host.machines:
            raise LaunchFailed(f"{machine.lab}/{machine.node} runs already: stop it first")
        problem = self.host.fail_launch.get(machine.key) or self.host.fail_launch.get("*")
        missing = [str(disk.path) for disk in machine.disks if not disk.path.exists()]
        if problem or missing:
            raise LaunchFailed(problem or f"cannot open {missing[0]}")
        machine.run.mkdir(parents=True, exist_ok=True)
        self._known.add(machine.key)
        return self.host.start(machine).process

    async def adopt(self, machine: MachineSpec, process: ProcessId) -> RunState:
        self.calls.append(("adopt", machine.key))
        found = self.host.machines.get(machine.key)
        if found is None or found.process != process or found.spec.uuid != machine.uuid:
            raise NodeGone(f"the QEMU of {machine.lab}/{machine.node} has ended")
        self._known.add(machine.key)
        if found.hung and self.host.patience:
            now, most = self.host.waiting
            self.host.waiting = [now + 1, max(most, now + 1)]
            await asyncio.sleep(self.host.patience)
            self.host.waiting[0] -= 1
        return self._answer(machine.key, "adopt").state

    async def scan(self) -> Sequence[FoundMachine]:
        return [
            FoundMachine(key=key, uuid=machine.spec.uuid, process=machine.process)
            for key, machine in self.host.machines.items()
        ]

    async def resume(self, key: str) -> None:
        machine = self._answer(key, "resume")
        if machine.state in {RunState.SHUTDOWN, RunState.PANICKED}:
            raise Conflict(f"{machine.name} cannot go on: reset it first")
        first, machine.state = machine.state, RunState.RUNNING
        if first is not RunState.RUNNING:
            self.host.emit(key, _K.RESUMED)
        if first is RunState.PRELAUNCH:
            asyncio.get_running_loop().call_soon(self._boot, key)

    async def pause(self, key: str) -> None:
        machine = self._answer(key, "pause")
        if machine.state is RunState.RUNNING:
            machine.state = RunState.PAUSED
            self.host.emit(key, _K.PAUSED)

    async def reset(self, key: str) -> None:
        self._answer(key, "reset")
        self.host.reset(key, guest=False)

    async def power_down(self, key: str) -> None:
        self._answer(key, "power_down")
        if self.host.obeys_power_down:
            self.host.power_off(key)

    async def kill(self, key: str) -> None:
        self.calls.append(("kill", key))
        if key in self.host.machines and key in self._known:
            if key in self.host.stuck:
                if key not in self._told_stuck:
                    self._told_stuck.add(key)
                    self.host.emit(key, _K.STUCK, pid=1, process_state="D", seconds=0.0)
                raise NodeStuck(f"the QEMU of {key} was killed and has not ended")
            hung = self.host.machines[key].hung
            self.host.die(key, status=-9 if hung else 0)

    async def kill_process(self, process: ProcessId) -> None:
        for key, machine in list(self.host.machines.items()):
            if machine.process == process:
                if key in self.host.stuck:
                    raise NodeStuck(f"the QEMU of {key} was killed and has not ended")
                self.calls.append(("kill_process", key))
                self.host.die(key)

    async def query(self, key: str) -> RunState:
        return self._answer(key, "query").state

    def rename(self, machine: MachineSpec) -> None:
        if machine.key in self._known and machine.key in self.host.machines:
            self.host.machines[machine.key].spec = machine

    async def forget(self, machine: MachineSpec) -> None:
        self.calls.append(("forget", machine.key))
        if machine.key not in self.host.machines and machine.run.exists():
            for path in machine.run.iterdir():
                path.unlink()
            machine.run.rmdir()

    async def wait_console(self, key: str, pattern: str) -> str:
        machine = self._machine(key)
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        machine.waiters[waiter] = re.compile(pattern)
        self.host.say(key, b"")
        try:
            return await waiter
        finally:
            machine.waiters.pop(waiter, None)

    async def agent_ping(self, key: str) -> bool:
        return self._machine(key).agent

    async def agent_exec(
        self, key: str, argv: Sequence[str], timeout: float, stdin: bytes = b""
    ) -> ExecResult:
        machine = self._machine(key)
        if not machine.agent:
            raise GuestAgentAbsent(f"the guest agent of {machine.name} is not there")
        if list(argv) == ["cat"]:
            return ExecResult(status=0, stdout=stdin, stderr=b"")
        return self.host.exec_result(argv)

    @asynccontextmanager
    async def console(self, key: str) -> AsyncIterator[FakeViewer]:
        machine = self._machine(key)
        viewer = FakeViewer(machine)
        machine.viewers.add(viewer)
        try:
            yield viewer
        finally:
            machine.viewers.discard(viewer)

    def message_log(self, machine: MachineSpec) -> Path:
        return machine.run / "qemu.log"

    def console_log(self, machine: MachineSpec) -> Path:
        return machine.run / "console.log"

    async def close(self) -> None:
        self._known.clear()
        if self.host.daemon is self:
            self.host.daemon = None

    def _boot(self, key: str) -> None:
        if key in self.host.machines:
            self.host.boot(key)

    def _machine(self, key: str) -> FakeMachine:
        if key not in self._known or key not in self.host.machines:
            raise NodeGone(f"machine {key} does not run; start its node first")
        return self.host.machines[key]

    def _answer(self, key: str, verb: str) -> FakeMachine:
        self.calls.append((verb, key))
        machine = self._machine(key)
        if machine.hung:
            if key not in self._told_hung:
                self._told_hung.add(key)
                self.host.emit(key, _K.UNRESPONSIVE)
            raise NodeUnresponsive(f"QEMU of {machine.name} did not answer")
        return machine
