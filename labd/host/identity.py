"""Who a process is, proven by more than its pid, and how to signal, await and find it.

A pid alone may belong to somebody else by the time it is used. `ProcessId` adds the start time and
the boot id; a pidfd (pidfd_open(2)) then pins the process while it is checked and signalled. All of
this works for processes that are not children of the caller, as after a restart of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labd.model.process import ProcessId

_PROC = Path("/proc")
_DEAD_STATES = frozenset("ZXx")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProcess:
    """A process that `scan` came across."""

    process: ProcessId
    argv: tuple[str, ...]


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the kernel (random(4))."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_stat(pid: int) -> tuple[str, int] | None:
    """Return the state letter and the start time in clock ticks (proc(5), fields 3 and 22).

    A process whose first thread has ended while others live counts as a zombie for the kernel. It
    still has its memory and files, and is told as `L` here.

    Returns None when there is no such process.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Field 2 is the command's name, which may hold blanks and parentheses: cut after the last one.
    fields = text[text.rindex(")") + 2 :].split()
    left = fields[0] in _DEAD_STATES and int(fields[17]) > 1
    return "L" if left else fields[0], int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """Return who holds `pid` now; None when nobody does, or only a zombie."""
    stat = read_stat(pid)
    if stat is None or stat[0] in _DEAD_STATES:
        return None
    return ProcessId(pid=pid, start_time_ticks=stat[1], boot_id=boot_id())


def is_alive(process: ProcessId) -> bool:
    """True if that very process still runs; a zombie does not."""
    return process.boot_id == boot_id() and identify(process.pid) == process


@contextlib.contextmanager
def pinned(process: ProcessId) -> Iterator[int | None]:
    """Hold a pidfd of `process` while the block runs; None when it has ended.

    The identity is checked after the pidfd is open. What has that start time now was already there
    when the descriptor was opened, so the descriptor is of the same process.
    """
    if process.boot_id != boot_id():
        yield None
        return
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd if is_alive(process) else None
    finally:
        os.close(fd)


def kill(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to that very process (pidfd_send_signal(2)).

    Returns:
        False when it has ended, in which case nothing was signalled.

    Raises:
        PermissionError: It belongs to another user.
    """
    with pinned(process) as fd:
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        return True


async def watch_exit(process: ProcessId) -> None:
    """Wait until the process has ended, at once if it already has; child or not."""
    loop = asyncio.get_running_loop()
    with pinned(process) as fd:
        if fd is None:
            return
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)


async def end(process: ProcessId, *, grace: float = 5.0, deadline: float | None = None) -> None:
    """Send SIGTERM, after `grace` seconds SIGKILL, and return when the process has ended.

    With `grace=0` it is killed at once. No error when it has already ended.

    Raises:
        TimeoutError: It has not ended `deadline` seconds after SIGKILL, as one that waits for a
            device (state D) cannot; it ends as soon as it can.
    """
    if grace > 0 and kill(process, signal.SIGTERM):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch_exit(process), grace)
    if kill(process, signal.SIGKILL):
        async with asyncio.timeout(deadline):
            await watch_exit(process)


def read_argv(pid: int) -> tuple[str, ...]:
    """Return the command line of a process; empty for kernel threads, zombies and the departed."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
    return tuple(os.fsdecode(part) for part in raw.split(b"\0")[:-1])


def scan(predicate: Callable[[Sequence[str]], bool]) -> list[FoundProcess]:
    """Return every process whose argv satisfies `predicate`, by pid.

    Blocks for some tens of microseconds a process: call it by `threads.quick`. A process counts
    only when it was the same before and after its command line was read.
    """
    found = []
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        argv = read_argv(pid)
        if not argv or not predicate(argv):
            continue
        process = identify(pid)
        if process is not None and read_argv(pid) == argv:
            found.append(FoundProcess(process=process, argv=argv))
    return sorted(found, key=lambda item: item.process.pid)
