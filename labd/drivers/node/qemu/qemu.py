"""The hypervisor adapter: QEMU processes of one root, by key (`drivers.node.port.Hypervisor`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from labd.drivers.node.qemu import argv, process, tsc
from labd.drivers.node.qemu.accel import Accelerator, KvmAccess
from labd.drivers.node.qemu.console import Viewer
from labd.drivers.node.qemu.console_backlog import ConsoleBacklog
from labd.drivers.node.qemu.probe import Probe, cause, ending, is_of_kvm
from labd.drivers.node.qemu.process import QEMU_LOG
from labd.drivers.node.qemu.vm import Vm, VmTimes, console_log, stuck
from labd.drivers.storage.port import BlockStorage
from labd.host import identity
from labd.host.failpoints import failpoints
from labd.host.spawn import Child
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.host.threads import LOGS, in_thread, quick
from labd.model.checkpoints import Incoming
from labd.model.disks import BlockAttachment, DiskRef
from labd.model.errors import (
    AcceleratorFailed,
    CommandFailed,
    LabdError,
    LaunchFailed,
    NodeGone,
    StorageFailed,
    WorldError,
)
from labd.model.machine import (
    AccelChoice,
    CpuSetting,
    ExecResult,
    FoundMachine,
    GuestEvent,
    MachineSpec,
    RunState,
)
from labd.model.process import ProcessId, Spawned
from labd.model.specs import Accel

log = logging.getLogger(__name__)

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)


class QemuHypervisor:
    """Launches, adopts and drives QEMU processes.

    Args:
        root_id: Marks the processes of this root, so that `scan` finds them.
        run: The root's run folder, root's alone.
        times: Deadlines and heartbeat; the defaults suit all but tests.
        storage: Opens the disks of machines; None: machines with disks are not launched.
        merge: The kernel may merge equal memory of machines (KSM).
        program: The QEMU to start; the last part of a path must be `argv.PROGRAM`.
        tasks: Runs what watches machines.
    """

    def __init__(
        self,
        root_id: str,
        run: Path,
        times: VmTimes | None = None,
        *,
        storage: BlockStorage | None = None,
        merge: bool = True,
        program: str = argv.PROGRAM,
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self._root_id = root_id
        self.storage = storage or _NoStorage()
        self._merge = merge
        self._program = program
        self._tasks = tasks or TaskSupervisor()
        self._accelerator = Accelerator(run, program)
        self._times = times or VmTimes()
        self._vms: dict[str, Vm] = {}
        self._listener: Callable[[GuestEvent], None] = _nobody
        self._bounding: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        """Have `listener` called for each guest event; see the port."""
        self._listener = listener

    async def accel(self, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        """Choose the accelerator and the CPU; see the port."""
        return await self._accelerator.choose(wanted, cpu)

    async def probe_kvm(self) -> Probe:
        """Run the live KVM probe now (`lab doctor`)."""
        return await self._accelerator.probe()

    def explain_kvm(self) -> str:
        """Return how machines get at `/dev/kvm`, or why they cannot (`lab doctor`)."""
        try:
            return self._accelerator.access().text
        except LaunchFailed as error:
            return error.message

    async def launch(
        self,
        machine: MachineSpec,
        taps: Mapping[str, int],
        incoming: Incoming | None = None,
        *,
        spawned: Spawned | None = None,
    ) -> ProcessId:
        """Start QEMU with its CPUs stopped; see the port.

        Raises:
            LaunchFailed: With QEMU's stderr; no process and no socket is left.
        """
        with ExitStack() as passed:
            for fd in taps.values():
                passed.callback(os.close, fd)
            if machine.key in self._vms:
                raise LaunchFailed(f"{machine.lab}/{machine.node} runs already: stop it first")
            vm = Vm(machine, self._report, self._ended, self._times, self._tasks)
            self._vms[machine.key] = vm
            try:
                await self._launch(vm, taps, passed, incoming, spawned)
            except BaseException:
                self._forget_vm(vm)
                raise
        assert vm.process is not None  # noqa: S101 - `connect` has set it
        return vm.process

    async def adopt(self, machine: MachineSpec, process: ProcessId) -> RunState:
        """Take over a process of an earlier daemon; see the port."""
        known = self._vms.get(machine.key)
        if known is not None:
            if known.process == process:
                return await known.query()
            raise NodeGone(f"{known.name} is process {known.process}: not {process.pid}")
        words = identity.read_argv(process.pid)
        # One that is ending, and cannot, has no command line any more.
        same = not words or argv.identify(words) == (self._root_id, machine.key, machine.uuid)
        if not identity.is_alive(process) or not same:
            raise await quick(_ended_while_away, machine)
        vm = Vm(machine, self._report, self._ended, self._times, self._tasks)
        self._vms[machine.key] = vm
        try:
            state = await vm.adopt(process)
        except NodeGone:
            self._forget_vm(vm)
            await vm.close()
            raise
        except WorldError:
            await self._take_over(vm)
            raise
        except BaseException:
            self._forget_vm(vm)
            await vm.close()
            raise
        await self._take_over(vm)
        return state

    async def scan(self) -> Sequence[FoundMachine]:
        """Find every QEMU process of this root; see the port."""
        found = await quick(identity.scan, self._is_ours)
        machines = []
        for item in found:
            mark = argv.identify(item.argv)
            if mark is not None:
                machines.append(FoundMachine(key=mark[1], uuid=mark[2], process=item.process))
        return machines

    def has(self, key: str) -> bool:
        """True if a machine is known; see the port."""
        return key in self._vms

    async def resume(self, key: str) -> None:
        """Let the CPUs run."""
        await self._vm(key).resume()

    async def pause(self, key: str) -> None:
        """Stop the CPUs."""
        await self._vm(key).execute("stop")

    async def reset(self, key: str) -> None:
        """Reset the machine."""
        await self._vm(key).reset()

    async def power_down(self, key: str) -> None:
        """Ask the guest to power off."""
        await self._vm(key).power_down()

    async def kill(self, key: str, *, discard: bool = False) -> None:
        """End the process and wait for its end (idempotent); see the port."""
        vm = self._vms.get(key)
        if vm is not None:
            await vm.kill(discard=discard)

    async def kill_process(self, process: ProcessId) -> None:
        """End a process found by `scan` (SIGKILL).

        Raises:
            NodeStuck: It has not ended in time.
        """
        mark = argv.identify(identity.read_argv(process.pid))
        if mark is not None and mark[0] == self._root_id:
            try:
                await identity.end(process, grace=0, deadline=self._times.kill)
            except TimeoutError:
                raise stuck(f"machine {mark[1]}", process, self._times.kill) from None

    async def _end_child(self, name: str, child: Child) -> None:
        """End a QEMU that did not come up; one that cannot end holds nobody up."""
        try:
            async with asyncio.timeout(self._times.kill):
                await child.stop(0)
        except TimeoutError:
            log.warning("%s; it is left", stuck(name, child.process, self._times.kill))

    async def query(self, key: str) -> RunState:
        """Ask QEMU what it is doing."""
        return await self._vm(key).query()

    def rename(self, machine: MachineSpec) -> None:
        """Call a running machine by another name; see the port."""
        vm = self._vms.get(machine.key)
        if vm is not None:
            vm.rename(machine)

    async def forget(self, *machines: MachineSpec) -> None:
        """Remove the run folders of machines that have ended (idempotent)."""
        ended = [machine for machine in machines if machine.key not in self._vms]
        if ended:
            await quick(process.remove_folders, ended)

    async def wait_console(self, key: str, pattern: str) -> str:
        """Return the first serial line since the launch in which `pattern` is found."""
        return await self._vm(key).hub.wait(pattern)

    async def agent_ping(self, key: str) -> bool:
        """True if the guest agent answers."""
        return await self._vm(key).agent.ping()

    async def agent_exec(
        self, key: str, argv: Sequence[str], timeout: float, stdin: bytes = b""
    ) -> ExecResult:
        """Run a command by the guest agent."""
        return await self._vm(key).agent.execute(argv, timeout, stdin)

    @asynccontextmanager
    async def console(self, key: str) -> AsyncIterator[Viewer]:
        """Attach one more viewer."""
        with self._vm(key).hub.viewer() as viewer:
            yield viewer

    def message_log(self, machine: MachineSpec) -> Path:
        """Return the path of what QEMU itself said since the launch."""
        return machine.run / QEMU_LOG

    def console_log(self, machine: MachineSpec) -> Path:
        """Return the path of the bounded serial log."""
        return console_log(machine)

    async def close(self) -> None:
        """Let go of every machine without touching it."""
        if self._bounding is not None:
            await cancel_all([self._bounding])
        vms = tuple(self._vms.values())
        self._vms.clear()
        await asyncio.gather(*(vm.close() for vm in vms))

    async def _launch(
        self,
        vm: Vm,
        taps: Mapping[str, int],
        passed: ExitStack,
        incoming: Incoming | None,
        spawned: Spawned | None,
    ) -> None:
        machine = vm.spec
        access = self._accelerator.access() if machine.kvm else None
        try:
            async with AsyncExitStack() as undo:
                undo.callback(process.remove_folder, machine)
                # Cancelled, it has ended before it is undone.
                await in_thread(lambda: process.make_folder(machine))
                undo.push_async_callback(vm.close)
                child, connect = await self._start(vm, taps, passed, access, undo, incoming)
                await self._come_up(vm, child, connect, spawned)
                await vm.open_screen()
                undo.pop_all()
        except LaunchFailed:
            raise
        except (CommandFailed, OSError) as error:
            raise LaunchFailed(f"cannot start QEMU for {vm.name}: {error}") from error
        self._begin(vm)

    def _begin(self, vm: Vm) -> None:
        """Watch over a machine, and over the logs of all with the first."""
        vm.begin()
        if self._bounding is None:
            self._bounding = self._tasks.supervise("logs of machines", self._bound_logs)

    async def _bound_logs(self) -> None:
        """Keep QEMU's own logs small, for ever.

        A thread for all of them: one for each machine was a third of what a heartbeat cost. A disk
        that does not answer holds up this alone.
        """
        while True:
            await asyncio.sleep(self._times.heartbeat)
            specs = [vm.spec for vm in self._vms.values()]
            if specs:
                await LOGS.run(process.bound_logs, specs)

    async def _start(
        self,
        vm: Vm,
        taps: Mapping[str, int],
        passed: ExitStack,
        access: KvmAccess | None,
        undo: AsyncExitStack,
        incoming: Incoming | None,
    ) -> tuple[Child, Callable[[], Awaitable[None]]]:
        """Spawn QEMU; return it, and what connects to it."""
        machine = vm.spec
        disks = await process.attach_disks(machine, self.storage, passed)
        opening = asyncio.ensure_future(
            quick(process.open_inputs, machine, taps, passed, disks, incoming)
        )
        try:
            fds = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])  # a thread cannot be cancelled; `passed` closes its files
            raise
        command = argv.build(
            machine,
            fds,
            self._root_id,
            tsc.host_khz(),
            merge=self._merge,
            program=self._program,
        )
        # Connected before QEMU exists: no byte is missed, and its death shows as end of file.
        qmp = process.connect(machine.run / process.QMP_SOCKET)
        undo.callback(qmp.close)
        serial = process.connect(machine.run / process.SERIAL_SOCKET)
        undo.callback(serial.close)
        assert fds.backlog is not None  # noqa: S101 - `open_inputs` has opened it
        backlog = ConsoleBacklog(os.dup(fds.backlog))
        undo.callback(backlog.close)
        again = tuple(fd for fd in (fds.kernel, fds.initrd) if fd is not None)
        child = await process.start(machine, command, _numbers(fds), access, again)
        undo.push_async_callback(self._end_child, vm.name, child)
        passed.close()
        await failpoints.reach("qemu.spawned")
        return child, partial(
            vm.connect, child, qmp, serial, backlog, incoming=incoming is not None
        )

    async def _come_up(
        self,
        vm: Vm,
        child: Child,
        connect: Callable[[], Awaitable[None]],
        spawned: Spawned | None,
    ) -> None:
        """Wait until QEMU answers, and `spawned` has ended, which has that time."""
        noting = asyncio.ensure_future(_told(spawned, child.process))
        try:
            await connect()
        except LabdError as error:
            await self._end_child(vm.name, child)
            said = _STAMP.sub("", await quick(process.log_tail, vm.spec)) or error.message
            raise self._not_started(vm, child.status, said) from error
        finally:
            await asyncio.wait({noting})
            failed = None if noting.cancelled() else noting.exception()
        if failed is not None:
            raise failed

    def _not_started(self, vm: Vm, status: int | None, said: str) -> LaunchFailed:
        """Return the error for a QEMU that did not start, with what it said, or why."""
        machine = vm.spec
        if machine.kvm and status is not None and is_of_kvm(status, said):
            # The host may be another one by now: virtual machines move.
            self._accelerator.forget()
            return AcceleratorFailed(
                f"KVM failed at the start of {vm.name} with -cpu {machine.cpu}: QEMU "
                f"{ending(status)}: {cause(said)}; start it again, which probes KVM anew, or set "
                "accel: tcg",
                stderr=said,
                status=status,
            )
        return LaunchFailed(
            f"QEMU for {vm.name} did not start: {said}; `lab doctor` looks at the host",
            stderr=said,
            status=status,
        )

    async def _take_over(self, vm: Vm) -> None:
        try:
            await vm.open_screen()
        except LaunchFailed as error:  # a machine without a screen is still worth having
            log.warning("%s has no screen: %s", vm.name, error)
        self._begin(vm)

    def machine(self, key: str) -> Vm:
        """Return a running machine, for the adapters of its screen and its devices.

        Raises:
            NodeGone: It has ended, or was never known.
        """
        return self._vm(key)

    def _vm(self, key: str) -> Vm:
        vm = self._vms.get(key)
        if vm is None:
            raise NodeGone(f"machine {key} does not run; start its node first")
        return vm

    def _is_ours(self, words: Sequence[str]) -> bool:
        mark = argv.identify(words)
        return mark is not None and mark[0] == self._root_id

    def _report(self, event: GuestEvent) -> None:
        self._listener(event)

    def _ended(self, vm: Vm) -> None:
        self._forget_vm(vm)

    def _forget_vm(self, vm: Vm) -> None:
        if self._vms.get(vm.spec.key) is vm:
            del self._vms[vm.spec.key]


class _NoStorage:
    """The storage of one who only looks at machines."""

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Refuse it.

        Raises:
            StorageFailed: Always.
        """
        raise StorageFailed(f"{ref} cannot be opened{' for writing' if writable else ''} here")


def _numbers(fds: argv.Descriptors) -> list[int]:
    """Return every descriptor that QEMU inherits."""
    single: tuple[int | None, ...] = (
        fds.qmp,
        fds.people,
        fds.serial,
        fds.agent,
        fds.kernel,
        fds.initrd,
        fds.config,
    )
    single += (fds.ram, fds.incoming, fds.backlog)
    return [
        *(fd for fd in single if fd is not None),
        *fds.taps.values(),
        *(layer.fd for layer in fds.layers.values() if layer.fd is not None),
    ]


async def _told(spawned: Spawned | None, process: ProcessId) -> None:
    if spawned is not None:
        await spawned(process)


def _nobody(event: GuestEvent) -> None:
    """Hear nothing: `listen` was not called yet."""


def _ended_while_away(machine: MachineSpec) -> NodeGone:
    said = ""
    with contextlib.suppress(OSError):
        said = _STAMP.sub("", process.log_tail(machine))
    return NodeGone(
        f"the QEMU of {machine.lab}/{machine.node} has ended"
        + (f"; its last words: {said}" if said else ""),
        stderr=said,
    )
