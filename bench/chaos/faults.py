"""What a nemesis does to labd's world, and how each fault is made good again."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from bench.chaos.daemon import ChaosDaemon
from bench.chaos.plan import Fault
from labd.host.identity import kill
from labd.model.process import ProcessId

_FILLING: Final = 1 << 20  # bytes a write
_SEPARATE: Final = frozenset(
    {"fail-netlink", "slow-world", "jump-clock", "stop-qemu", "stop-dnsmasq", "stop-plugin"}
)  # these last while others come; of the rest there is one at a time


class Faults:
    """Does faults of a plan. `heal` ends those that last."""

    def __init__(self, target: ChaosDaemon) -> None:
        self.done: Counter[str] = Counter()
        self._target = target
        self._healing: list[threading.Timer] = []

    def do(self, fault: Fault) -> None:
        """Do one fault; it returns when it is made good, or goes on in the background."""
        target = self._target
        if fault.kind in _SEPARATE:
            undo = self._begin(fault)
            if undo is not None:
                timer = threading.Timer(fault.hold, undo)
                timer.start()
                self._healing.append(timer)
                self.done[fault.kind] += 1
            return
        self.done[fault.kind] += 1
        match fault.kind:
            case "kill-daemon":
                target.kill()
                time.sleep(fault.pick)
                target.start()
            case "kill-both":
                target.kill()
                for process in self._one(target.qemus, fault):
                    target.kill_qemu(process)
                target.start()
            case "kill-daemon-twice":
                target.kill()
                target.daemon.launch()
                time.sleep(0.8 + 2 * fault.pick)  # while it recovers, more or less
                target.kill()
                target.start()
            case "stop-daemon":
                assert target.daemon.process is not None
                os.kill(target.daemon.process.pid, signal.SIGSTOP)
                time.sleep(fault.hold)
                os.kill(target.daemon.process.pid, signal.SIGCONT)
            case "kill-qemu":
                for process in self._one(target.qemus, fault):
                    target.kill_qemu(process)
            case "kill-broker":
                self._kill(target.brokers, fault)
            case "stop-broker":
                self._pause(target.brokers, fault)
            case "kill-dnsmasq":
                self._kill(target.servers, fault)
            case "kill-plugin":
                self._kill(target.plugins, fault)
            case "fill-disk":
                self._fill(fault.hold)
            case "lock-database":
                self._lock(fault.hold)

    def heal(self) -> None:
        """Make good whatever is still wrong."""
        for timer in self._healing:
            timer.join(30)

    def _begin(self, fault: Fault) -> Callable[[], None] | None:
        """Begin a fault that lasts; return how it is made good, None when nothing is there."""
        target = self._target
        if fault.order:
            target.order(fault.kind, fault.order)
            return lambda: target.order(fault.kind, "")
        of = {
            "stop-qemu": target.qemus,
            "stop-dnsmasq": target.servers,
            "stop-plugin": target.plugins,
        }[fault.kind]
        for process in self._one(of, fault):
            kill(process, signal.SIGSTOP)
            return lambda: _go_on(process)
        return None

    @staticmethod
    def _one(of: Callable[[], list[ProcessId]], fault: Fault) -> list[ProcessId]:
        found = of()
        return [found[int(fault.pick * len(found))]] if found else []

    def _kill(self, of: Callable[[], list[ProcessId]], fault: Fault) -> None:
        for process in self._one(of, fault):
            kill(process, signal.SIGKILL)

    def _pause(self, of: Callable[[], list[ProcessId]], fault: Fault) -> None:
        for process in self._one(of, fault):
            kill(process, signal.SIGSTOP)
            time.sleep(fault.hold)
            _go_on(process)

    def _fill(self, seconds: float) -> None:
        """Leave no room on labd's disk for a while."""
        path = self._target.daemon.root / "filling"
        self._target.hindered += 1
        try:
            with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(_FILLING))
            time.sleep(seconds)
        finally:
            os.unlink(path)
            self._target.hindered -= 1

    def _lock(self, seconds: float) -> None:
        """Hold labd's database, as a backup or a curious person might."""
        path = self._target.daemon.root / "lib" / "labd.db"
        self._target.hindered += 1
        try:
            other = sqlite3.connect(path, timeout=5, isolation_level=None)
            with contextlib.closing(other), contextlib.suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                other.execute("ROLLBACK")
        finally:
            self._target.hindered -= 1


def _go_on(process: ProcessId) -> None:
    kill(process, signal.SIGCONT)
