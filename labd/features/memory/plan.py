"""When the host is short of memory, and when something must be given back. Pure.

Pausing a lab frees nothing: it stops it from taking more. So one lab is paused at a time, and the
next one only when memory went on falling, or when so little is left that there is no time to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from labd.model.memory import MemoryReading
from labd.model.process import ProcessId
from labd.model.units import MIB

_LAST = 128 * MIB  # below it, labs are paused one after the other
_STEPS = 8  # of the low mark: by one of them memory must fall until the next lab is paused
_SETTLE = 0.5  # seconds that what was given back has to show
_WINDOW = 10.0  # seconds over which the kernel counts stalls: until then it tells of before
# Of QEMUs, of -1000 to 1000. The kernel adds a thousandth of the host's memory for each to what a
# process has, so that the age of a lab decides, and labd itself (0 or less) is behind all of them.
_OOM_OLDEST, _OOM_NEWEST = 300, 900

QUICK: Final = 0.1  # seconds between looks when little is left
SLOW: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Where the host becomes short of memory, and where it is no more.

    Attributes:
        low: Bytes available, below which it is short.
        enough: Bytes available, from which on it is no more; above `low`, so that it does not flap.
        last: Bytes available, below which there is no time to wait.
        stall: Percent of stalled time from which on it is short, too; 0: it is not looked at.
    """

    low: int
    enough: int
    last: int
    stall: float


class Change(StrEnum):
    """What became of the host with a reading."""

    NONE = "none"
    LOW = "low"
    OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What is known from the readings so far.

    Attributes:
        low: The host is short of memory.
        best: Most bytes that were available since something was given back last.
        since: When that was, seconds of a clock that never jumps.
    """

    low: bool = False
    best: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows from a reading.

    Attributes:
        after: To be given with the next reading.
        change: To be told.
        relieve: Something is to be given back now.
    """

    after: Pressure
    change: Change = Change.NONE
    relieve: bool = False


def marks_of(reserve: int, pause_below: int, stall: float) -> Marks:
    """Return the marks that follow from the configuration.

    Args:
        reserve: Bytes that are left to the host when labs are started.
        pause_below: Bytes; 0 for half of the reserve.
        stall: Percent; 0 for never.
    """
    low = pause_below or reserve // 2
    # Where new labs may be started again, if that is above.
    enough = max(reserve, low + low // 4)
    return Marks(low=low, enough=enough, last=min(low // 4, _LAST), stall=stall)


def plan(before: Pressure, reading: MemoryReading, marks: Marks, now: float) -> Step:
    """Return what follows from a reading at a time (seconds of a clock that never jumps)."""
    available = reading.available
    stalls = 0 < marks.stall <= reading.stalled
    if not before.low:
        if available >= marks.low and not stalls:
            return Step(after=before)
        after = Pressure(low=True, best=available, since=now)
        return Step(after=after, change=Change.LOW, relieve=True)
    calm = not marks.stall or reading.stalled < marks.stall / 2
    if available >= marks.enough and calm:
        return Step(after=Pressure(), change=Change.OK)
    after = replace(before, best=max(before.best, available))
    waited = now - before.since
    fallen = available < marks.low and available <= after.best - max(marks.low // _STEPS, 1)
    due = (
        (fallen and waited >= _SETTLE)
        or (available < marks.last and waited >= _SETTLE)
        or (stalls and waited >= _WINDOW)
    )
    if not due:
        return Step(after=after)
    return Step(after=Pressure(low=True, best=available, since=now), relieve=True)


def pace(reading: MemoryReading, marks: Marks) -> float:
    """Return the seconds until the next look."""
    return QUICK if reading.available < 2 * marks.low else SLOW


def oom_scores(labs: Sequence[Sequence[ProcessId]]) -> dict[ProcessId, int]:
    """Return whom the kernel shall kill first, if it must: process -> score.

    Args:
        labs: The QEMUs of each lab, the oldest lab first.
    """
    span = max(len(labs) - 1, 1)
    return {
        process: _OOM_NEWEST - (_OOM_NEWEST - _OOM_OLDEST) * (len(labs) - 1 - rank) // span
        for rank, processes in enumerate(labs)
        for process in processes
    }
