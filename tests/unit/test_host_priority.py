"""Who leads a session has it served first; the session of somebody else stays as it is."""

from __future__ import annotations

import subprocess
import sys

from labd.host.priority import AUTOGROUP

PROGRAM = """
from labd.host.priority import AUTOGROUP, go_first
print(go_first(), AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else "")
"""


def told(*, leader: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        start_new_session=leader,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_session_of_its_own_goes_first() -> None:
    assert told(leader=True) == (["True", "-10"] if AUTOGROUP.exists() else ["False"])


def test_the_session_of_a_terminal_stays_as_it_is() -> None:
    assert told(leader=False)[0] == "False"
