"""The one place that creates processes.

    child = await spawn(["qemu-system-x86_64", ...], pass_fds=[tap], jail=Jail(uid=..., gid=...))
    stack.push_async_callback(child.stop)

Short commands are run to their end by `labd.host.commands`.

A child gets a small fixed environment, no descriptor that was not passed, a session of its own (so
that a Ctrl-C at the daemon's terminal does not reach it), and is always waited for. Its exit is
told by a pidfd in the loop: no SIGCHLD handler, and no thread per child as asyncio's default in
Python 3.11 has.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from labd.host.identity import boot_id, read_stat
from labd.host.jail import Jail
from labd.host.threads import in_thread
from labd.model.errors import CommandFailed
from labd.model.process import ProcessId

__all__ = ["NULL", "PIPE", "STDOUT", "Child", "Jail", "spawn"]

NULL: Final = subprocess.DEVNULL
PIPE: Final = subprocess.PIPE
STDOUT: Final = subprocess.STDOUT  # for `stderr` only: where stdout goes

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
_STREAM_LIMIT = 1 << 20  # bytes of one line that a reader of a pipe buffers

# Where a program comes from on Debian, for the advice in errors.
PACKAGES: Final[Mapping[str, str]] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "tcpdump": "tcpdump",
    "ip": "iproute2",
    "bridge": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
    "cpio": "cpio",
    "zstd": "zstd",
    "xz": "xz-utils",
}


class Child:
    """A running child process; see `spawn`.

    Attributes:
        process: Its identity, which holds after a restart of the daemon.
        stdin: Open when spawned with `stdin=PIPE`.
        stdout: Open when spawned with `stdout=PIPE`.
        stderr: Open when spawned with `stderr=PIPE`.
    """

    def __init__(self, popen: subprocess.Popen[bytes], process: ProcessId, pidfd: int) -> None:
        self.process = process
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._popen = popen
        self._pidfd: int | None = pidfd
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._transports: list[asyncio.BaseTransport] = []
        self._loop.add_reader(pidfd, self._reap)

    @property
    def pid(self) -> int:
        """The pid of the program itself: the jail's tools exec it."""
        return self.process.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """Return the exit status, negative for a signal, when the process has ended."""
        return await asyncio.shield(self._exited)

    def send_signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when the process has ended."""
        if self._pidfd is None:
            return False
        # Not reaped yet, so the pidfd is of this process, dead or alive.
        signal.pidfd_send_signal(self._pidfd, number)
        return True

    def kill_group(self) -> bool:
        """Send SIGKILL to the process and all it started in its session's first group."""
        if self._pidfd is None:
            return False
        # The leader is not reaped yet: its pid, and so its group id, cannot belong to another.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return True

    async def stop(self, grace: float = 5.0) -> int:
        """Send SIGTERM, after `grace` seconds SIGKILL, and return the exit status.

        With `grace=0` it is killed at once. Idempotent; cancelling it kills at once too.
        """
        try:
            if grace > 0 and self.send_signal(signal.SIGTERM):
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(self.wait(), grace)
        finally:
            if self.status is None:
                self.send_signal(signal.SIGKILL)
        status = await self.wait()
        self._close_pipes()
        return status

    def release(self) -> None:
        """Let go of the process without touching it; it lives on when labd ends."""
        self._forget()
        if not self._exited.done():
            self._exited.cancel()
            # Says that no one will wait for it, which Popen would otherwise warn about.
            self._popen.returncode = 0
        self._close_pipes()

    def _reap(self) -> None:
        self._forget()
        status = self._popen.wait()  # does not block: the pidfd was readable
        if not self._exited.done():
            self._exited.set_result(status)

    def _forget(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _close_pipes(self) -> None:
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    async def _attach(self) -> None:
        if self._popen.stdin is not None:
            self.stdin = await self._writer(self._popen.stdin)
        if self._popen.stdout is not None:
            self.stdout = await self._reader(self._popen.stdout)
        if self._popen.stderr is not None:
            self.stderr = await self._reader(self._popen.stderr)

    async def _reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_STREAM_LIMIT, loop=self._loop)
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader, loop=self._loop), pipe
        )
        self._transports.append(transport)
        return reader

    async def _writer(self, pipe: IO[bytes]) -> asyncio.StreamWriter:
        reader = asyncio.StreamReader(loop=self._loop)
        transport, protocol = await self._loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(reader, loop=self._loop), pipe
        )
        self._transports.append(transport)
        return asyncio.StreamWriter(transport, protocol, reader, self._loop)


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = NULL,
    stdout: int = NULL,
    stderr: int = NULL,
    pass_fds: Sequence[int] = (),
    jail: Jail | None = None,
    umask: int = -1,
) -> Child:
    """Start a program and return as soon as it is about to be executed.

    With a jail, the failure to find or execute the program comes as its exit status 127 or 126, as
    `setpriv` has it; what it said is on `stderr`.

    Args:
        argv: Program, looked up on a fixed PATH, and its arguments. Never a shell's text.
        env: Added to PATH and LANG, which is all that a child gets.
        cwd: Working folder; `/` by default, so that no file system is kept busy.
        stdin: A descriptor, NULL or PIPE.
        stdout: A descriptor, NULL or PIPE.
        stderr: A descriptor, NULL, PIPE or STDOUT.
        pass_fds: Descriptors that the child gets under the same numbers. The caller keeps and
            closes its own.
        jail: What it is denied.
        umask: Octal file mode mask; -1 keeps labd's.

    Raises:
        CommandFailed: The program does not exist or may not be executed. No process is left.
    """
    command = [*(jail.prefix() if jail is not None else ()), *argv]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            close_fds=True,
            pass_fds=tuple(pass_fds),
            cwd=cwd or "/",
            env={**_ENVIRONMENT, **(env or {})},
            start_new_session=True,
            umask=umask,
        )

    try:
        if jail is not None and jail.files is not None:
            popen = await _start_inside(jail, start)
        else:
            # Blocks for the millisecond until exec: vfork holds the calling thread in any case.
            popen = start()
    except OSError as error:
        raise _not_started(command[0], error) from error
    return await _child_of(popen)


async def _child_of(popen: subprocess.Popen[bytes]) -> Child:
    """Return a started process with its pipes attached; on failure it is gone."""
    try:
        pidfd = os.pidfd_open(popen.pid)
        stat = read_stat(popen.pid)
        assert stat is not None, "an unreaped child is always in /proc"  # noqa: S101
        process = ProcessId(pid=popen.pid, start_time_ticks=stat[1], boot_id=boot_id())
        child = Child(popen, process, pidfd)
    except BaseException:
        popen.kill()
        popen.wait()
        raise
    try:
        await child._attach()
    except BaseException:
        child.kill_group()
        await child.wait()
        raise
    return child


async def _start_inside(
    jail: Jail, start: Callable[[], subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    """Start a program from a thread that has entered the jail."""
    started: list[subprocess.Popen[bytes]] = []

    def work() -> None:
        jail.enter()
        started.append(start())

    def linger() -> None:
        # The parent-death signal comes when this thread ends, not the process.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, started[0].pid, os.WEXITED | os.WNOWAIT)

    try:
        await in_thread(work, linger if jail.pdeathsig else None)
    except BaseException:
        for popen in started:  # nobody will ever hear of it
            popen.kill()
            popen.wait()
        raise
    return started[0]


def _not_started(program: str, error: OSError) -> CommandFailed:
    if error.errno == errno.ENOENT and error.filename != "/":
        package = PACKAGES.get(Path(program).name)
        advice = f"install it: apt-get install {package}" if package else f"PATH is {SEARCH_PATH}"
        return CommandFailed(f"cannot start {program}: not found; {advice}", program=program)
    return CommandFailed(
        f"cannot start {program}: {error.strerror}; see `lab doctor`", program=program
    )
