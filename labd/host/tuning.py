"""Tunings of the host and of this process, each with the measurement that earned it.

CPU shares: autogroups share CPUs by session, and each machine has one; while fifty nodes booted,
each commit of labd waited for its turn. One arena of memory: namespaces are entered in threads that
end, and glibc would keep an arena for many of them. KSM: equal pages of forks are merged.
The collector of cycles: it does not look at what was there when the daemon had started.
"""

from __future__ import annotations

import gc
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.host.identity import is_alive
from labd.host.libc import LIBC
from labd.model.process import ProcessId

log = logging.getLogger(__name__)

KSM_FOLDER: Final = Path("/sys/kernel/mm/ksm")
_RUNS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KsmState:
    """How it stands.

    Attributes:
        wanted: `auto`, `on` or `off`, as labd.toml says.
        run: 0 stopped, 1 running, 2 unmerging; None: this kernel has no KSM.
        saved: Bytes that are not needed for what is merged.
    """

    wanted: str = "auto"
    run: int | None = None
    saved: int = 0


def read_ksm(wanted: str, folder: Path = KSM_FOLDER) -> KsmState:
    """Return how it stands."""
    try:
        run = int((folder / "run").read_text())
        # `pages_sharing` counts the uses of merged pages beyond the first of each.
        saved = int((folder / "pages_sharing").read_text()) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return KsmState(wanted=wanted)
    return KsmState(wanted=wanted, run=run, saved=saved)


class KsmSwitch:
    """The host's switch.

    Args:
        note: File for what it was before.
        folder: Where the kernel has it.
    """

    def __init__(self, note: Path, folder: Path = KSM_FOLDER) -> None:
        self._note = note
        self._run = folder / "run"

    def turn_on(self) -> None:
        """Let the kernel merge. That it cannot is logged, and told by `lab doctor`."""
        try:
            before = self._run.read_text().strip()
            if not self._note.exists():
                # Written before the switch is touched, so that it is known whatever dies.
                self._note.write_text(before)
            if before != str(_RUNS):
                self._run.write_text(str(_RUNS))
        except OSError as error:
            log.warning("KSM cannot be switched on: %s", error.strerror)

    def restore(self) -> None:
        """Put the switch back to what it was before labd touched it (idempotent)."""
        try:
            before = self._note.read_text().strip()
            # What a person has set meanwhile stays.
            if before in {"0", "2"} and self._run.read_text().strip() == str(_RUNS):
                self._run.write_text("0")
            self._note.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("KSM cannot be put back: %s", error.strerror)


_M_ARENA_MAX: Final = -8  # malloc.h of glibc


def use_one_arena() -> bool:
    """Have all threads allocate from one arena; tell whether the C library can (mallopt(3)).

    By default glibc gives threads up to eight arenas a CPU, and each keeps what its busiest moment
    took: with threads that come and go by the thousand, memory grows for hours for nothing. They
    run Python, one at a time, so that they never wait for each other here.
    """
    try:
        mallopt = LIBC.mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))


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


def keep_what_is_there() -> None:
    """Have Python's collector look no more at what is there now (`gc.freeze`): it stays for ever.

    To be called when a process has started. What labd has read and made by then is 120,000 objects
    and more; each whole collection took 50 to 80 ms with them, in the midst of whatever was asked,
    and every `up` and `destroy` of fifty nodes met one. What is garbage by now and not young stays,
    too, for to look for it would hold up the first requests as long.
    """
    gc.collect(1)
    gc.freeze()
