"""Who leads a session has it served first; the session of somebody else stays as it is."""

from __future__ import annotations

import subprocess
import sys

from labd.host.priority import AUTOGROUP

WITHIN = """
from labd.host.priority import AUTOGROUP, go_first
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
