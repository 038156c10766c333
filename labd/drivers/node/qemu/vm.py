"""One running QEMU: its monitor, its console, its agent, and the watch over its life."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import time
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.drivers.node.qemu import folding, process
from labd.drivers.node.qemu.agent import GuestAgent
from labd.drivers.node.qemu.console import ConsoleHub
from labd.drivers.node.qemu.console_backlog import ConsoleBacklog
from labd.drivers.node.qemu.display import VncPort
from labd.drivers.node.qemu.monitor import DEADLINE, Monitor, QmpEvent
from labd.drivers.node.qemu.resets import ResetMeter
from labd.drivers.node.qemu.serial_line import SerialLine
from labd.host import identity
from labd.host.spawn import Child
from labd.host.supervision import Contained, TaskSupervisor, cancel_all
from labd.host.threads import quick
from labd.host.tuning import serve
from labd.model.errors import (
    Conflict,
    LabdError,
    NodeGone,
    NodeStuck,
    NodeUnresponsive,
    QmpRefused,
)
from labd.model.machine import GuestEvent, GuestEventKind, MachineSpec, RunState
from labd.model.process import ProcessId
from labd.model.specs import Display

HEARTBEAT: Final = 15.0  # seconds between looks at a silent QEMU
GREETING: Final = 3.0  # seconds for the first word of a QEMU that is taken over
_BOUND = 1.0  # seconds that the disk of QEMU's own log has to answer for its last words
_DRAIN = 1.0  # seconds for what a dead QEMU has left in its sockets
_QUIT_GRACE = 2.0  # seconds from QMP `quit` to SIGKILL
# Seconds from SIGKILL to the end of the process: to free much memory takes seconds on a busy host.
# What has not ended by then waits for a device or a file system (state D).
KILL: Final = 20.0
_RESET_TIMEOUT = 2.0  # seconds until the RESET event after `system_reset`
_UNSTICK_EVERY, _UNSTICK_TRIES = 2.0, 30  # seconds, and how often
_WATCH_AGAIN = 1.0  # seconds
_RECONNECT = 0.2  # seconds from the end of a connection to the next

log = logging.getLogger(__name__)
_K = GuestEventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class VmTimes:
    """Seconds; shorter ones suit tests."""

    deadline: float = DEADLINE
    heartbeat: float = HEARTBEAT
    greeting: float = GREETING
    kill: float = KILL


class Vm:
    """A machine whose process lives, or has just ended.

    Args:
        spec: What it is.
        process: Its identity.
        child: The child, when this daemon started it.
        tell: Hears its events.
        ended: Called once, before EXITED is told.
        times: Deadlines.
        tasks: Runs what watches it.
    """

    def __init__(
        self,
        spec: MachineSpec,
        tell: Callable[[GuestEvent], None],
        ended: Callable[[Vm], None],
        times: VmTimes,
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self._supervisor = tasks = tasks or TaskSupervisor()
        self.spec = spec
        self.name = f"{spec.lab}/{spec.node}"
        self.process: ProcessId | None = None
        self.gone = asyncio.Event()
        self._child: Child | None = None
        self._tell_listener = tell
        self._on_end = ended
        self._times = times
        self._told = False  # events may be told: the launch has been announced
        self._early: list[GuestEvent] = []
        self.listeners: set[Callable[[QmpEvent], None]] = set()
        self._closing = False
        self._discarded = False  # killed with all that is its
        self.unplugged = asyncio.Event()  # set, and made anew, when a device has gone
        self._reset = asyncio.Event()
        self._resets = ResetMeter(self._report)
        self._stuck_told = False
        self._unstick_left = 0  # tries, of the one task that does it
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat: asyncio.TimerHandle | None = None
        self.monitor = Monitor(self.name, self._heard, self._responsive, self._monitor_lost, tasks)
        self.hub = ConsoleHub(
            spec.run / process.CONSOLE_LOG,
            self.name,
            lambda: self._spawn(self._line.reconnect),
            tasks,
        )
        self._line = SerialLine(
            self.hub,
            lambda: self.spec.run / process.SERIAL_SOCKET,
            self._look,
            self._is_over,
            self._report_line,
        )
        self.agent = GuestAgent(spec.run / process.AGENT_SOCKET, self.name)
        self.vnc = VncPort(spec.run / process.VNC_SOCKET, self.monitor, tasks)

    # coming to life

    async def connect(
        self,
        child: Child,
        qmp: socket.socket,
        serial: socket.socket,
        backlog: ConsoleBacklog,
        *,
        incoming: bool = False,
    ) -> None:
        """Take a QEMU that was just spawned and wait until it answers (-S: nothing runs yet).

        Raises:
            NodeGone: It ended, or closed its monitor.
            NodeUnresponsive: No answer in time.
        """
        self._child, self.process = child, child.process
        await self.hub.attach(serial, fresh=True)
        # Starting on a busy host takes its time; when QEMU dies, the socket says so at once.
        await self.monitor.connect(qmp, self._times.deadline * 12)
        state = await self.query()
        if state is not RunState.PRELAUNCH and not (incoming and state is RunState.PAUSED):
            raise NodeGone(f"QEMU of {self.name} came up {state}, not stopped")
        backlog.begin()
        self.hub.remember(backlog)

    async def adopt(self, known: ProcessId) -> RunState:
        """Take over a process that an earlier daemon started.

        Raises:
            NodeGone: It has ended.
            NodeUnresponsive: It lives but does not answer, or as another machine would; it is
                watched from now on, and can be killed.
        """
        self.process = known
        self.agent.open = False
        with contextlib.suppress(OSError):
            await self._line.connect()
        try:
            line = await self._first_word()
            await self.monitor.connect(line, self._times.deadline)
            await self._check_uuid()
            await self._look_at_agent()
            return await self.query()
        except (NodeGone, NodeUnresponsive) as error:
            # To count one that lives as gone would be to leave it behind.
            if isinstance(error, NodeGone) and not identity.is_alive(known):
                raise
            if not self.monitor.connected:
                self._spawn(self._reconnect)
            if isinstance(error, NodeGone):
                log.warning("%s", error)
                raise self.monitor.silent(0) from error
            raise
        finally:
            # QEMU, which answers, has taken the line by now: what it says goes there.
            self.hub.catch_up(ConsoleBacklog.of(known.pid))
            if not self.hub.attached:
                self._spawn(self._line.reconnect)

    async def open_screen(self) -> None:
        """Listen for viewers of the screen, if there is one.

        Raises:
            LaunchFailed: The socket cannot be made.
        """
        if self.spec.display is Display.VNC:
            await self.vnc.open()

    def begin(self) -> None:
        """Announce the machine: watch over its life and tell its events from now on."""
        self._told = True
        early, self._early = self._early, []
        for event in early:
            self._report(event)
        self._spawn(self._watch)
        # Spread over the period by the key, so that fifty machines do not beat at once.
        share = (zlib.crc32(self.spec.key.encode()) % 1000) / 1000
        self._beat_in(self._times.heartbeat * (0.2 + 0.8 * share))

    # what callers ask for

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Execute a QMP command within the deadline; errors as in `Monitor.execute`."""
        if self.gone.is_set():
            raise self.error_gone()
        return await self.monitor.execute(command, arguments, self._times.deadline)

    async def query(self) -> RunState:
        """Ask what it is doing."""
        return folding.run_state(await self.execute("query-status"))

    async def resume(self) -> None:
        """Let the CPUs run.

        Raises:
            Conflict: QEMU wants a reset first.
        """
        if self.process is not None:
            serve(self.process, before_others=False)
        try:
            await self.execute("cont")
        except QmpRefused as error:
            raise Conflict(
                f"{self.name} cannot go on: {error}; reset it first: `lab reset {self.name}`"
            ) from error

    async def reset(self) -> None:
        """Reset; returns when the board has been, so that a `cont` may follow at once."""
        self._reset.clear()
        await self.execute("system_reset")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reset.wait(), _RESET_TIMEOUT)

    async def power_down(self) -> None:
        """Ask the guest to power off: by its agent when that is open, else by ACPI."""
        if not await self.agent.shut_down():
            await self.execute("system_powerdown")

    def rename(self, spec: MachineSpec) -> None:
        """Take another name of lab and node, for messages."""
        self.spec = spec
        self.name = f"{spec.lab}/{spec.node}"
        for part in (self.monitor, self.hub, self.agent):
            part.name = self.name

    async def kill(self, *, discard: bool = False) -> None:
        """End the process and wait for it (idempotent).

        Args:
            discard: Its disks are removed next: it is not asked to quit, which would have it write
                them, and nobody needs its last words.

        Raises:
            NodeStuck: It was killed and has not ended in time; STUCK is told, and EXITED when it
                does end.
        """
        if self.process is None:
            return
        self._discarded |= discard
        asked = not discard and self.monitor.connected and not self.monitor.hung
        if asked and not self.gone.is_set():
            with contextlib.suppress(LabdError, TimeoutError):
                await self.monitor.execute("quit", deadline=1.0)
                await asyncio.wait_for(self._process_ended(), _QUIT_GRACE)
        try:
            async with asyncio.timeout(self._times.kill):
                if self._told and self._child is not None:
                    # Its pidfd is open, and `_watch` waits at it already.
                    self._child.send_signal(signal.SIGKILL)
                else:
                    await identity.end(self.process, grace=0)
                if self._told:
                    await self.gone.wait()
        except TimeoutError:
            if self.gone.is_set():
                return
            raise self._stuck(self.process) from None

    def _stuck(self, known: ProcessId) -> NodeStuck:
        error = stuck(self.name, known, self._times.kill)
        if not self._stuck_told:
            self._stuck_told = True
            data = {**error.details, "reason": error.message}
            self._report(GuestEvent(key=self.spec.key, kind=_K.STUCK, time=time.time(), data=data))
        return error

    def error_gone(self) -> NodeGone:
        """Return the error for a machine that has ended."""
        return NodeGone(f"{self.name} has ended; start it again with `lab start {self.name}`")

    async def close(self) -> None:
        """Let go of the machine without touching it."""
        self._closing = True
        if self._beat is not None:
            self._beat.cancel()
        await cancel_all(self._tasks)
        await self.vnc.close()
        await self.monitor.close()
        self.hub.end()
        self.agent.close()
        if self._child is not None:
            self._child.release()

    # its life

    async def _watch(self) -> None:
        status, said = await self._wait_end(), ""
        # From here on each step is done once, whatever befalls the others: its end is told.
        try:
            # What it said last is still in the sockets, and comes before its end.
            for drain in (self.monitor.drain, self.hub.drain):
                with self._contained():
                    await drain(_DRAIN)
            with self._contained():
                await self.vnc.close()
            if not self._discarded:
                with self._contained(), contextlib.suppress(TimeoutError):
                    said = await asyncio.wait_for(quick(process.log_tail, self.spec), _BOUND)
        finally:  # who waits for its end shall not wait for these
            if self._beat is not None:
                self._beat.cancel()
            self.gone.set()
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._on_end(self),
            self.hub.end,
            self.agent.close,
            lambda: self._report(self._exit_event(status, said)),
        )
        for step in steps:
            with self._contained():
                step()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        with self._contained():
            await self.monitor.close()

    async def _wait_end(self) -> int | None:
        if self._child is not None:
            return await self._child.wait()
        assert self.process is not None  # noqa: S101 - set by `connect` and `adopt`
        while True:
            try:
                await identity.watch_exit(self.process)
            except OSError as error:  # out of descriptors: it must not end unseen for that
                log.warning("cannot watch the QEMU of %s, and try again: %s", self.name, error)
                await asyncio.sleep(_WATCH_AGAIN)
            else:
                return None

    async def _process_ended(self) -> None:
        await self._wait_end()

    def _exit_event(self, status: int | None, said: str) -> GuestEvent:
        data: dict[str, object] = {"status": status, "stderr": said}
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                data["signal"] = signal.Signals(-status).name
        return GuestEvent(key=self.spec.key, kind=_K.EXITED, time=time.time(), data=data)

    def _heard(self, raw: QmpEvent) -> None:
        if raw.get("event") == "DEVICE_DELETED":
            self.unplugged.set()
            self.unplugged = asyncio.Event()
        for listener in tuple(self.listeners):
            with self._contained():
                listener(raw)
        change = folding.agent_change(raw)
        if change is not None:
            self.agent.open = change
        event = folding.fold(self.spec.key, raw)
        if event is None:
            return
        if event.kind is _K.RESET:
            self.hub.was_reset(event.time)
            idle, self._unstick_left = not self._unstick_left, _UNSTICK_TRIES
            if idle:
                self._spawn(self._unstick)
            self._reset.set()
            self._resets.note(event)
        else:
            self._report(event)

    def _report(self, event: GuestEvent) -> None:
        if event.kind is not _K.RESET:
            with self._contained():
                self._resets.flush()
        if self._told:
            self._tell_listener(event)
        elif event.kind is not _K.UNRESPONSIVE:  # `launch` and `adopt` raise it instead
            self._early.append(event)

    def _responsive(self, responsive: bool) -> None:  # noqa: FBT001 - a callback's only argument
        if self._closing or self.gone.is_set():
            return
        kind = _K.RESPONSIVE if responsive else _K.UNRESPONSIVE
        if responsive or self._told:
            self._report(GuestEvent(key=self.spec.key, kind=kind, time=time.time(), data={}))
        if responsive:
            self._spawn(self._look_at_agent)  # its opening may have been missed meanwhile

    # staying in touch

    def _beat_in(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(delay, lambda: self._spawn(self._pulse))

    async def _pulse(self) -> None:
        if self.monitor.connected and not self.monitor.hung:
            with contextlib.suppress(LabdError):
                await self.query()
        if not self.gone.is_set():
            self._beat_in(self._times.heartbeat)

    def _monitor_lost(self) -> None:
        if self._told and not self._closing and not self.gone.is_set():
            self._spawn(self._reconnect)

    async def _first_word(self) -> socket.socket:
        """Return a connection to the monitor on which QEMU speaks: to wait for that costs nothing.

        Raises:
            NodeGone, NodeUnresponsive: Nobody listens; it says nothing.
        """
        try:
            line = process.connect(self.spec.run / process.QMP_SOCKET)
        except BlockingIOError:  # so many have asked in vain that no more are let in
            raise self.monitor.silent(0) from None
        except OSError as error:
            raise NodeGone(f"nobody listens at the monitor of {self.name}: {error}") from error
        if not await process.readable(line, self._times.greeting):
            line.close()
            raise self.monitor.silent(self._times.greeting)
        return line

    async def _reconnect(self) -> None:
        """Wait on one connection for as long as it takes; QEMU greets when it can."""
        patience = asyncio.get_running_loop().call_later(
            self._times.deadline, self.monitor.declare_hung
        )
        try:
            while not self.gone.is_set():
                # The process is ending, somebody cut the line, or QEMU speaks nonsense each time.
                await asyncio.sleep(_RECONNECT)
                try:
                    await self.monitor.connect(self.spec.run / process.QMP_SOCKET, None)
                    await self._look_at_agent()
                except LabdError as error:
                    log.debug("monitor of %s: %s", self.name, error)
                else:
                    return
        finally:
            patience.cancel()

    async def _look(self) -> None:
        """Wait until QEMU has taken a new connection to its serial line, if it answers."""
        with contextlib.suppress(LabdError):
            await self.query()

    def _is_over(self) -> bool:
        if self._closing or self.gone.is_set():
            return True
        return self.process is not None and not identity.is_alive(self.process)

    def _report_line(self, kind: GuestEventKind, data: dict[str, object]) -> None:
        self._report(GuestEvent(key=self.spec.key, kind=kind, time=time.time(), data=data))

    async def _unstick(self) -> None:
        """Make the serial line speak again after a reset.

        QEMU 7.2 can lose a 16550's transmit interrupt in `system_reset`: what the guest writes then
        waits in its driver for ever. A new connection has QEMU look at the line again.
        """
        while self._unstick_left:
            await asyncio.sleep(_UNSTICK_EVERY)
            self._unstick_left -= 1
            if not self.hub.awaited or self._closing or self.gone.is_set():
                self._unstick_left = 0
            elif self.hub.quiet_for >= _UNSTICK_EVERY / 2:
                try:
                    await self._line.swap()
                except OSError as error:
                    log.warning("the serial line of %s is connected anew: %s", self.name, error)
                    self._spawn(self._line.reconnect)

    async def _check_uuid(self) -> None:
        answer = await self.execute("query-uuid")
        said = answer.get("UUID") if isinstance(answer, dict) else None
        if said != self.spec.uuid:
            raise NodeGone(f"the QEMU behind {self.name}'s monitor has uuid {said}: not touched")

    async def _look_at_agent(self) -> None:
        answer = await self.execute("query-chardev")
        for entry in answer if isinstance(answer, list) else ():
            if isinstance(entry, dict) and entry.get("label") == "agent":
                self.agent.open = bool(entry.get("frontend-open"))

    def _spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        if self._closing:
            return
        task = self._supervisor.supervise(
            f"machine {self.name}", functools.partial(_quiet, work, self.name)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _contained(self) -> Contained:
        return self._supervisor.contained(f"machine {self.name}")


def stuck(name: str, known: ProcessId, seconds: float) -> NodeStuck:
    """Return the error of a process that was killed and has not ended in time."""
    stat = identity.read_stat(known.pid)
    state = stat[0] if stat is not None else "?"
    return NodeStuck(
        f"the QEMU of {name} (process {known.pid}, state {state}) was killed and has not ended "
        f"after {seconds:g} s: the kernel waits for a device or file system of the host; look at "
        "the kernel's log, then ask again",
        pid=known.pid,
        process_state=state,
        seconds=seconds,
    )


async def _quiet(work: Callable[[], Coroutine[object, object, None]], name: str) -> None:
    try:
        await work()  # made here: a task that is cancelled before it begins leaves no coroutine
    except LabdError as error:
        log.warning("%s: %s", name, error)


def console_log(spec: MachineSpec) -> Path:
    """Return the path of the serial log."""
    return spec.run / process.CONSOLE_LOG
