"""When a host is short of memory, and when something is given back: histories of readings."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from labd.features.memory.plan import (
    QUICK,
    SLOW,
    Change,
    Pressure,
    marks_of,
    oom_scores,
    pace,
    plan,
)
from labd.model.memory import MemoryReading
from labd.model.process import ProcessId
from labd.model.units import GIB, MIB

MARKS = marks_of(reserve=2 * GIB, pause_below=0, stall=40)  # low 1 GiB, enough 2 GiB, last 128 MiB


@dataclass
class Host:
    """Readings one after the other."""

    state: Pressure = field(default_factory=Pressure)
    now: float = 1000.0

    def see(self, mib: int, *, stalled: float = 0.0, after: float = 1.0) -> str:
        """Return what follows, as one word or two."""
        self.now += after
        reading = MemoryReading(total=64 * GIB, available=mib * MIB, stalled=stalled)
        step = plan(self.state, reading, MARKS, self.now)
        self.state = step.after
        change = "" if step.change is Change.NONE else str(step.change)
        return " ".join(filter(None, (change, "relieve" if step.relieve else "")))


def test_marks_follow_from_the_reserve_and_are_apart() -> None:
    assert (MARKS.low, MARKS.enough, MARKS.last) == (GIB, 2 * GIB, 128 * MIB)
    said = marks_of(reserve=GIB, pause_below=4 * GIB, stall=0)
    assert (said.low, said.enough, said.last) == (4 * GIB, 5 * GIB, 128 * MIB)
    assert marks_of(reserve=0, pause_below=0, stall=0).low == 0
    assert marks_of(reserve=0, pause_below=40 * MIB, stall=0).last == 10 * MIB


def test_one_lab_is_paused_and_the_next_only_when_memory_falls_on() -> None:
    host = Host()
    assert [host.see(mib) for mib in (9000, 1025)] == ["", ""]
    assert host.see(1000) == "low relieve"
    # The paused lab gives nothing back; that the host stays where it is, is no reason for more.
    assert [host.see(mib) for mib in (990, 980, 1000, 900)] == ["", "", "", ""]
    assert host.see(870) == "relieve"  # an eighth of a GiB below the best since then
    assert host.see(860) == ""
    assert [host.see(mib) for mib in (1500, 1100, 1030)] == ["", "", ""]  # never below the low mark
    assert host.see(1020) == "relieve"


def test_it_is_over_only_well_above_the_low_mark() -> None:
    host = Host()
    assert host.see(100) == "low relieve"
    assert [host.see(mib) for mib in (1500, 2047)] == ["", ""]
    assert host.see(2048) == "ok"
    assert host.see(1100) == ""
    assert host.see(1000) == "low relieve"


def test_near_the_end_there_is_no_time_to_look() -> None:
    host = Host()
    assert host.see(120) == "low relieve"
    assert host.see(121, after=0.1) == ""
    assert host.see(121, after=0.5) == "relieve"
    assert host.see(121, after=0.5) == "relieve"


def test_a_host_that_only_waits_for_memory_is_short_of_it() -> None:
    host = Host()
    assert host.see(5000, stalled=39) == ""
    assert host.see(5000, stalled=41) == "low relieve"
    # The kernel's figure is of the last ten seconds, and tells of before for as long.
    assert [host.see(5000, stalled=50, after=3) for _ in range(3)] == ["", "", ""]
    assert host.see(5000, stalled=50, after=3) == "relieve"
    assert [host.see(5000, stalled=30), host.see(5000, stalled=10)] == ["", "ok"]


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=60))
def test_whatever_comes_low_and_ok_take_turns_and_nothing_is_relieved_while_all_is_well(
    history: list[int],
) -> None:
    host, told = Host(), []
    for mib in history:
        said = host.see(mib)
        told += [word for word in said.split() if word != "relieve"]
        if "relieve" in said:
            assert mib < 1024
            assert host.state.low
        if mib < 1024:
            assert host.state.low
    assert told == [("low", "ok")[at % 2] for at in range(len(told))]


def test_looks_are_quick_when_little_is_left() -> None:
    reading = MemoryReading(total=64 * GIB, available=3 * GIB)
    assert pace(reading, MARKS) == SLOW
    assert pace(MemoryReading(total=64 * GIB, available=GIB), MARKS) == QUICK


def test_the_newest_lab_is_killed_first_if_the_kernel_must() -> None:
    a, b, c, d = (ProcessId(pid=n, start_time_ticks=1, boot_id="b") for n in range(1, 5))
    assert oom_scores([[a], [b, c], [d]]) == {a: 300, b: 600, c: 600, d: 900}
    assert oom_scores([[a]]) == {a: 900}
    assert oom_scores([]) == {}
