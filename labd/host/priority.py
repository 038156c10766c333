"""The share of the CPUs that labd gets beside its machines, and one machine beside another."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from labd.host.identity import is_alive
from labd.model.process import ProcessId

AUTOGROUP: Final = Path("/proc/self/autogroup")
_NICE = -10
_NICE_BEFORE_OTHERS = -5  # before guests that run, and after labd


def go_first(autogroup: Path = AUTOGROUP) -> bool:
    """Have this session served before those of the machines; tell whether it is so now.

    Where the kernel shares CPUs by session (autogroups, sched(7)), labd would get as much as one
    of its machines, each of which has a session of its own: fifty that boot would hold up everybody
    who asks labd for anything. Where control groups share them, labd has its own beside that of all
    its labs, and that is enough.

    A session that somebody else leads, that of a terminal, is left as it is.
    """
    if os.getsid(0) != os.getpid():
        return False
    with suppress(OSError):  # the kernel has none, or labd may not
        autogroup.write_text(str(_NICE))
        return True
    return False


def serve(process: ProcessId, *, before_others: bool) -> bool:
    """Have the session that a process leads served before others, or like them.

    Returns:
        Whether it is so now; the kernel may have no autogroups, and the process may have ended.
    """
    with suppress(OSError):
        # Opened first, so what has that start time now is what was opened: no stranger.
        with open(f"/proc/{process.pid}/autogroup", "w", encoding="ascii") as file:
            if not is_alive(process):
                return False
            file.write(str(_NICE_BEFORE_OTHERS if before_others else 0))
        return True
    return False
