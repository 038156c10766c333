"""The daemon that is ill-treated: on a small file system of its own, started again when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.daemon import CONFIG
from labd.client.client import Client
from labd.host.failpoints import VARIABLE
from labd.host.identity import identify, kill, read_argv
from labd.model.errors import LabdError
from labd.model.process import ProcessId
from tests.system.harness import Daemon, processes

_SIZE: Final = "768m"  # of the file system; the plan fills it now and then
_START_WITHIN: Final = 90.0  # seconds, on a host with other work


class ChaosDaemon:
    """A daemon, and what was done to it.

    Attributes:
        kills: `LAB/NODE` of each QEMU that was killed.
        problems: What labd did that nobody made it do, such as ending.
        hindered: How many faults are on at which labd may refuse to start.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.path = str(daemon.root / "run" / "api.sock")
        self.kills: list[str] = []
        self.problems: list[str] = []
        self.hindered = 0
        self._orders = daemon.root / "orders"
        self._standing: dict[str, str] = {}
        self._lock = threading.Lock()
        daemon.environment[VARIABLE] = str(self._orders)
        self._orders.touch()

    # orders to its failpoints

    def order(self, name: str, order: str) -> None:
        """Have an order stand under a name; empty takes it back."""
        with self._lock:
            self._standing[name] = order
            fresh = self._orders.with_suffix(".new")
            try:
                fresh.write_text("\n".join(filter(None, self._standing.values())))
                fresh.replace(self._orders)
            except OSError:  # the disk is full; what cannot be ordered is not
                with contextlib.suppress(OSError):
                    fresh.unlink()
                    self._orders.unlink()

    # its life

    def start(self) -> None:
        """Start the daemon as often as it takes, as systemd would, and wait until it answers.

        Raises:
            AssertionError: It does not within reason.
        """
        end = time.monotonic() + _START_WITHIN
        hindered = self.hindered
        self.daemon.launch()
        while not self.answers():
            assert self.daemon.process is not None
            hindered += self.hindered
            status = self.daemon.process.poll()
            if status is not None:
                if not hindered:
                    self.problems.append(f"labd does not start ({status}): {self.tail()}")
                time.sleep(0.5)
                hindered = self.hindered
                self.daemon.launch()
            if time.monotonic() > end:
                raise AssertionError(f"labd does not start: {self.tail()}")
            time.sleep(0.05)

    def look(self) -> None:
        """Note when the daemon has ended on its own account, and start it again."""
        process = self.daemon.process
        if process is not None and process.poll() is not None:
            self.problems.append(f"labd ended with {process.returncode}: {self.tail()}")
            self.start()

    def kill(self) -> None:
        """End the daemon (SIGKILL)."""
        self.daemon.kill()

    def answers(self) -> bool:
        """Tell whether the daemon answers now."""
        try:
            with Client(self.path, timeout=10.0) as client:
                self.daemon.host_id = str(client.info()["host_id"])
        except LabdError:
            return False
        return True

    def tail(self) -> str:
        """Return the end of the daemon's log."""
        return self.daemon.log.read_text(errors="replace")[-1500:]

    # processes

    def qemus(self) -> list[ProcessId]:
        """Return the QEMUs of this root."""
        return _alive(self.daemon.qemus())

    def servers(self) -> list[ProcessId]:
        """Return the dnsmasqs of this root."""
        return _alive(self.daemon.servers())

    def brokers(self) -> list[ProcessId]:
        """Return the broker of this root."""
        return self._with("mosquitto")

    def plugins(self) -> list[ProcessId]:
        """Return the plugins of this root."""
        return self._with("plugins/recorder/plugin.py")

    def _with(self, word: str) -> list[ProcessId]:
        daemon = self.daemon.process.pid if self.daemon.process is not None else 0
        own = [pid for pid in processes() if _parent(pid) == daemon]
        return _alive([pid for pid in own if word in " ".join(read_argv(pid)[:4])])

    def kill_qemu(self, process: ProcessId) -> None:
        """End a QEMU, and note whose it was."""
        words = read_argv(process.pid)
        names = [word for word in words if word.startswith("guest=")]
        if names and kill(process, signal.SIGKILL):
            self.kills.append(names[0].removeprefix("guest=").partition("@")[0])


def _alive(pids: Sequence[int]) -> list[ProcessId]:
    found = [identify(pid) for pid in sorted(pids)]
    return [process for process in found if process is not None]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@contextmanager
def small_disk_daemon() -> Iterator[ChaosDaemon]:
    """Mount a small file system, give a daemon its root there, and take all away at the end."""
    root = Path(tempfile.mkdtemp(prefix="labd-n-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0755", "labd-nemesis", str(root)]
    subprocess.run(mount, check=True)
    target = None
    try:
        target = ChaosDaemon(Daemon(root, CONFIG))
        yield target
    finally:
        if target is not None:
            _clear(target)
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        os.rmdir(root)


def _clear(target: ChaosDaemon) -> None:
    """End what a failed run has left."""
    process = target.daemon.process
    if process is not None and process.poll() is None:
        target.daemon.kill()
    if target.daemon.host_id:
        for left in [*target.qemus(), *target.servers()]:
            kill(left, signal.SIGKILL)
        for name in target.daemon.namespaces():
            subprocess.run(["ip", "netns", "delete", name], check=False)
