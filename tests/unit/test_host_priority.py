"""labd's session goes first, those of machines that load go next, and no stranger's is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.host.identity import identify
from labd.host.tuning import AUTOGROUP, serve
from labd.model.process import ProcessId

WITHIN = """
from labd.host.tuning import AUTOGROUP, go_first
print(go_first(), AUTOGROUP.read_text() if AUTOGROUP.exists() else "")
"""


def told(*, leader: bool) -> list[str]:
    """Whether a session goes first, and what the kernel says of it.

    The kernel says nothing of the session that it made itself, in which all is that never asked for
    another (autogroup_init: the group of init_task is none of its own).
    """
    done = subprocess.run(
        [sys.executable, "-c", WITHIN],
        start_new_session=leader,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_session_of_its_own_goes_first() -> None:
    first, *said = told(leader=True)
    assert (first, said[-1:]) == (("True", ["-10"]) if AUTOGROUP.exists() else ("False", []))


def test_the_session_of_a_terminal_stays_as_it_is() -> None:
    first, *said = told(leader=False)
    assert first == "False"
    assert said == (AUTOGROUP.read_text().split() if AUTOGROUP.exists() else [])


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """Give a process that leads a session of its own."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        process = identify(child.pid)
        assert process is not None
        yield process
        child.kill()


def nice_of(process: ProcessId) -> list[str]:
    return Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1:]


def test_a_machine_goes_before_others_until_it_runs(sleeper: ProcessId) -> None:
    for before, nice in ((True, "-5"), (False, "0")):
        assert serve(sleeper, before_others=before) == AUTOGROUP.exists()
        if AUTOGROUP.exists():
            assert nice_of(sleeper) == [nice]


def test_a_stranger_who_has_the_pid_by_now_stays_as_he_is(sleeper: ProcessId) -> None:
    earlier = replace(sleeper, start_time_ticks=sleeper.start_time_ticks - 1)
    assert not serve(earlier, before_others=True)
    if AUTOGROUP.exists():
        assert nice_of(sleeper) == ["0"]


def test_one_that_has_ended_is_none() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = identify(child.pid)
        child.kill()
    assert process is not None
    assert not serve(process, before_others=True)
