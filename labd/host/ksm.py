"""KSM: the kernel merges equal pages of machines (its Documentation/admin-guide/mm/ksm.rst).

QEMU marks the memory of its guests as mergeable unless it is told not to. Whether the kernel looks
for equal pages is one switch of the whole host, which labd touches only when the administrator says
so, and puts back when it stops. What it was before stands in a file, for a daemon that is killed
does not put it back; the next one does.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FOLDER: Final = Path("/sys/kernel/mm/ksm")
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


def read(wanted: str, folder: Path = FOLDER) -> KsmState:
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

    def __init__(self, note: Path, folder: Path = FOLDER) -> None:
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
