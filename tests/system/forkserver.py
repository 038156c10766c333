"""Daemons that begin as copies of a process that has read labd's code already.

Reading it takes more than a second of CPU time, which the suite would pay some hundred times. A
copy made by fork(2) runs the same `labd.daemon.main` in a session of its own, and is killed, waited
for and restarted like any other process. What it does not show is that `labd` itself starts: the
daemons of `tests/system/test_labs.py` about signals, and those of other namespaces, are executed.

    python -m tests.system.forkserver FD      the process that is copied; it obeys `ForkServer`
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_REPO = Path(__file__).resolve().parents[2]
_MESSAGE = 1 << 20  # bytes
_BEGINS_WITHIN = 120.0  # seconds; the first waits until the code has been read
_ENDS_WITHIN = 30.0
# What uvicorn and others import as late as they are started.
_LATE = (
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)


class ForkedDaemon:
    """One copy, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, server: ForkServer, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._pidfd = pidfd

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, 0)
            self._close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, timeout)
            self._close()
        if self.returncode is None:
            raise subprocess.TimeoutExpired("labd serve", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it; nothing happens when it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _close(self) -> None:
        if self.returncode is not None and self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class ForkServer:
    """The process that is copied, seen from the tests. It ends with them."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.forkserver", str(theirs.fileno())],
                cwd=_REPO,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._ended: dict[int, int] = {}
        atexit.register(self._close)

    def fork_daemon(
        self, argv: Sequence[str], environment: Mapping[str, str], log: int
    ) -> ForkedDaemon:
        """Begin `labd` with these arguments; both outputs go to the descriptor `log`."""
        order = json.dumps({"argv": list(argv), "environment": dict(environment)})
        socket.send_fds(self._control, [order.encode()], [log])
        end = time.monotonic() + _BEGINS_WITHIN
        while (message := self._read(max(end - time.monotonic(), 0))) is not None:
            if "begun" in message:
                return ForkedDaemon(self, message["begun"], message["pidfd"])
        raise AssertionError(f"the fork server has begun no daemon within {_BEGINS_WITHIN:g} s")

    def status(self, pid: int, timeout: float | None) -> int | None:
        """Return how a copy ended, as `Popen.returncode`; None when it has not within seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while pid not in self._ended:
            left = None if end is None else max(end - time.monotonic(), 0)
            if self._read(left) is None:
                return None
        return self._ended.pop(pid)

    def _read(self, timeout: float | None) -> dict[str, Any] | None:
        """Return the next message within seconds."""
        if not select.select([self._control], [], [], timeout)[0]:
            return None
        data, fds, _, _ = socket.recv_fds(self._control, _MESSAGE, 1)
        if not data:
            raise AssertionError("the fork server has ended")
        message: dict[str, Any] = json.loads(data)
        if fds:
            message["pidfd"] = fds[0]
        if "ended" in message:
            self._ended[message["ended"]] = message["status"]
        return message

    def _close(self) -> None:
        self._control.close()
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()


_servers: list[ForkServer] = []


def fork_daemon(argv: Sequence[str], environment: Mapping[str, str], log: int) -> ForkedDaemon:
    """Begin `labd` as a copy; the process that is copied is made by the first."""
    if not _servers:
        _servers.append(ForkServer())
    return _servers[0].fork_daemon(argv, environment, log)


# In the process that is copied:


def _obey(control: socket.socket) -> list[str] | None:
    """Make copies until the tests end; return its arguments in each copy, None in the original."""
    children: dict[int, int] = {}  # pidfd -> pid
    while True:
        for fd in select.select([control.fileno(), *children], [], [])[0]:
            if fd != control.fileno():
                pid = children.pop(fd)
                os.close(fd)
                _, status = os.waitpid(pid, 0)
                message = {"ended": pid, "status": os.waitstatus_to_exitcode(status)}
                control.send(json.dumps(message).encode())
                continue
            data, fds, _, _ = socket.recv_fds(control, _MESSAGE, 1)
            if not data:
                return None
            order = json.loads(data)
            pid = os.fork()
            if pid == 0:
                _begin(fds[0], order["environment"])
                argv: list[str] = order["argv"]
                return argv
            os.close(fds[0])
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid
            # Its descriptor goes along: whoever is told late could find the pid gone, or another's.
            socket.send_fds(control, [json.dumps({"begun": pid}).encode()], [pidfd])


def _begin(log: int, environment: Mapping[str, str]) -> None:
    """Make of this copy what `labd` would be when it is executed."""
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    os.umask(0o022)


def main() -> None:
    """Be the process that is copied."""
    from labd import daemon

    for module in _LATE:
        importlib.import_module(module)
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    argv = _obey(control)
    if argv is None:
        return
    control.detach()  # its descriptor is closed
    sys.argv = ["labd", *argv]
    daemon.main(prog_name="labd")


if __name__ == "__main__":
    main()
