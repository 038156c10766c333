"""Counters of taps, as if each had passed one packet each way; memory and groups of a host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labd.host.identity import is_alive
from labd.model.activity import Glance
from labd.model.cgroups import Member
from labd.model.memory import MemoryReading
from labd.model.process import ProcessId
from labd.model.units import GIB
from labd.model.usage import PortUsage

ONE = PortUsage(received_packets=1, sent_packets=1, received_bytes=60, sent_bytes=60)


class _Any(dict[str, PortUsage]):
    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> PortUsage:
        return ONE


class FakeCounters:
    """Implements the port `Counters`; `seen` is what a glance at any lab shows."""

    def __init__(self) -> None:
        self.seen = Glance()

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        return _Any()

    async def glance(self, namespace: str) -> Glance:
        return self.seen


class FakeMemory:
    """Implements the port `HostMemory`; it outlives the daemon.

    Attributes:
        reading: What is read next.
        scores: What was said of processes.
    """

    def __init__(self, alive: Callable[[ProcessId], bool] = is_alive) -> None:
        self.reading = MemoryReading(total=64 * GIB, available=60 * GIB)
        self.scores: dict[ProcessId, int] = {}
        self._alive = alive

    async def read(self) -> MemoryReading:
        return self.reading

    async def prefer(self, scores: Mapping[ProcessId, int]) -> None:
        self.scores |= {item: score for item, score in scores.items() if self._alive(item)}


class FakeCgroups:
    """Implements the port `Cgroups`; `held` is group -> who is in it, and outlives the daemon."""

    def __init__(self, alive: Callable[[ProcessId], bool] = is_alive) -> None:
        self.held: dict[str, Member] = {}
        self.problems: list[str] = []
        self._alive = alive

    def works(self) -> bool:
        return True

    async def hold(self, members: Sequence[Member]) -> Sequence[str]:
        wanted = {f"{item.lab}/{item.key}": item for item in members if self._alive(item.process)}
        moved = {item.process for item in wanted.values()}
        left = {  # a group with processes cannot be removed
            group: item
            for group, item in self.held.items()
            if group not in wanted and item.process not in moved and self._alive(item.process)
        }
        self.held = {**left, **wanted}
        return self.problems

    async def groups(self) -> Sequence[str]:
        return sorted(self.held)

    async def outside(self, members: Sequence[Member]) -> Sequence[str]:
        return [
            item.key
            for item in members
            if self._alive(item.process) and f"{item.lab}/{item.key}" not in self.held
        ]
