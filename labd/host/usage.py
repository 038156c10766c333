"""What processes take, from /proc (proc(5)); none is asked, so that none can hold it up."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from labd.model.usage import ProcessUsage

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # of the fields of /proc/PID/stat behind the name: utime and stime


def process_usage(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """Return what a process has taken; None when it is gone. Blocks for some milliseconds."""
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        rollup = (folder / "smaps_rollup").read_text()
        io = (folder / "io").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # What KSM has merged is shared, though it is counted as anonymous (from kernel 6.8 on).
    own = max(_kilobytes(rollup, "Anonymous") - _kilobytes(rollup, "KSM"), 0)
    return ProcessUsage(
        cpu=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS,
        own=own,
        shared=max(_kilobytes(rollup, "Rss") - own, 0),
        written=_number(io, r"^write_bytes: (\d+)$"),
    )


def folder_size(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk; 0 when it is not there.

    Holes take nothing (stat(2), `st_blocks`). Blocks briefly.
    """
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0


def _kilobytes(text: str, name: str) -> int:
    return _number(text, rf"^{name}:\s+(\d+) kB$") * 1024


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0
