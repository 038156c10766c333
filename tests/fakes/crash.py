"""Crash points: a daemon is ended at any call that it makes of the world."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from labd.inventory.port import Transaction
from labd.model.errors import StorageFailed


class CrashPoint:
    """Counts what a daemon asks of the world, and ends it at one of these calls.

    Attributes:
        dead: Nothing that the daemon asks has an effect any more.
        calls: What it asked so far.
        at: Dies at the call of this number.
        before: Dies before that call has its effect, otherwise after it.
        name: Dies at the first call of this name instead.
        since: Of those that come after a call of this name.
        faults: Call -> how often it fails next by what no port promises, as a bug would.
    """

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.calls: list[str] = []
        self.at = 0
        self.before = True
        self.name = ""
        self.since = ""
        self.faults: Counter[str] = Counter()

    def fault(self, call: str) -> None:
        if self.faults[call] > 0:
            self.faults[call] -= 1
            raise ZeroDivisionError(f"a bug in {call}")

    def check(self, *, after: bool = False) -> None:
        last = self.calls[-1] if self.calls else ""
        # Others may have asked meanwhile, where several things are done at one time.
        named = bool(self.name) and last == self.name
        named = named and (not self.since or self.since in self.calls)
        due = 0 < self.at <= len(self.calls) or named
        if due and self.before is not after:
            self.dead.set()
        if self.dead.is_set():
            raise StorageFailed("the daemon is dead")

    def called(self, name: str) -> None:
        self.calls.append(name)
        self.check()


class CrashingPort:
    """A port whose calls fail once the daemon is dead."""

    def __init__(self, target: Any, crash: CrashPoint, names: set[str]) -> None:
        self._target = target
        self._crash = crash
        self._names = names

    def __getattr__(self, name: str) -> Any:
        self._crash.fault(name)
        method = getattr(self._target, name)
        if name not in self._names:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._crash.called(name)
            result = await method(*args, **kwargs)
            self._crash.check(after=True)
            return result

        return call


class CrashingInventory(CrashingPort):
    """An inventory that commits nothing more for a dead daemon."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._target.transaction() as tx:
            yield tx
            self._crash.called("commit")
        self._crash.check(after=True)


# The calls of each port at which a daemon can end.
ASKED: dict[str, set[str]] = {
    "nodes": {"launch", "resume", "kill", "kill_process", "forget", "power_down", "adopt"},
    "networks": {"apply", "open_taps", "remove"},
    "devices": {"plug_disk", "unplug_disk", "plug_nic", "unplug_nic", "change_medium"},
    "uplinks": {"apply", "remove"},
    "servers": {"apply", "remove"},
    "wires": {"apply"},
    "carriers": {"set_carrier"},
    "images": {"discard", "sweep"},
    "storage": {"clone", "create", "child", "seed", "delete", "discard", "sweep"},
    "keys": {"ensure", "remove"},
    "snapshots": {
        "save",
        "put_back",
        "launch",
        "loaded",
        "announce",
        "set_clock",
        "authorize",
    },
    "checkpoints": {"stage", "absorb", "publish", "incoming", "discard", "sweep"},
    "memory": set(),
    "counters": set(),
    "cgroups": set(),
}
