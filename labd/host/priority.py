"""The share of the CPUs that labd itself gets beside its machines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

AUTOGROUP: Final = Path("/proc/self/autogroup")
_NICE = -10


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
