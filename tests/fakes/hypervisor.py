"""A hypervisor in memory, with the same contract as QEMU's adapter (test_nodes.py)."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
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
from labd.model.process import ProcessId, Spawned
from labd.model.specs import Accel
from tests.fakes.host import FakeHost, FakeMachine, FakeViewer

_K = GuestEventKind


class FakeHypervisor:
    """`drivers.node.port.NodePort` on a FakeHost; does nothing more once `dead` is set."""

    def __init__(self, host: FakeHost | None = None, dead: asyncio.Event | None = None) -> None:
        self.host = host or FakeHost()
        self._dead = dead or asyncio.Event()
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

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], *, spawned: Spawned | None = None
    ) -> ProcessId:
        self.calls.append(("launch", machine.key))
        for fd in taps.values():
            os.close(fd)
        await asyncio.sleep(0)
        if machine.key in self.host.machines:
            raise LaunchFailed(f"{machine.lab}/{machine.node} runs already: stop it first")
        problem = self.host.fail_launch.get(machine.key) or self.host.fail_launch.get("*")
        if self.host.falls[:1] == ["refuse"]:
            problem = self.host.falls.pop(0)
        missing = [
            str(disk.ref)
            for disk in machine.disks
            if not disk.empty and not self.host.has_disk(disk.ref)
        ]
        if problem or missing:
            raise LaunchFailed(problem or f"cannot open {missing[0]}")
        machine.run.mkdir(parents=True, exist_ok=True)
        self._known.add(machine.key)
        process = self.host.start(machine).process
        if spawned is not None:
            try:
                await spawned(process)
            except BaseException:
                if not self._dead.is_set():
                    self.host.die(machine.key)
                raise
        return process

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

    def has(self, key: str) -> bool:
        return key in self._known

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

    async def kill(self, key: str, *, discard: bool = False) -> None:
        self.calls.append(("kill", key))
        if key in self.host.machines and key in self._known:
            if key in self.host.stuck:
                if key not in self._told_stuck:
                    self._told_stuck.add(key)
                    self.host.emit(key, _K.STUCK, pid=1, process_state="D", seconds=0.0)
                raise NodeStuck(f"the QEMU of {key} was killed and has not ended")
            hung = self.host.machines[key].hung
            self.host.die(key, status=-9 if hung or discard else 0)

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

    async def forget(self, *machines: MachineSpec) -> None:
        for machine in machines:
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
        if self.host.shell is not None:
            return self.host.shell(machine, argv)
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
