"""What processes take, from /proc (proc(5)); none is asked, so that none can hold it up."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from labd.host.facts import read_meminfo
from labd.host.identity import is_alive
from labd.host.threads import quick
from labd.model.memory import MemoryReading
from labd.model.process import ProcessId
from labd.model.usage import ProcessUsage

log = logging.getLogger(__name__)


class ProcMemory:
    """Implements `core.ports_memory.HostMemory`."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    async def read(self) -> MemoryReading:
        """Return how it stands; some tens of microseconds."""
        fields = read_meminfo(self._proc / "meminfo")
        return MemoryReading(
            total=fields["MemTotal"],
            available=fields["MemAvailable"],
            stalled=stalled(self._proc / "pressure" / "memory"),
        )

    async def prefer(self, scores: Mapping[ProcessId, int]) -> None:
        """Say whom the kernel shall kill first; see the port."""
        await quick(self._write, scores)

    def _write(self, scores: Mapping[ProcessId, int]) -> None:
        for process, score in scores.items():
            # The folder is of that very process as long as it is held: a pid used again has
            # another one.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                folder = os.open(self._proc / str(process.pid), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    if is_alive(process):
                        _write_at(folder, "oom_score_adj", str(score))
                except PermissionError:
                    log.debug("oom_score_adj of %s cannot be set", process.pid)
                finally:
                    os.close(folder)


def _write_at(folder: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def stalled(path: Path = Path("/proc/pressure/memory")) -> float:
    """Return the percent of the last 10 seconds in which all tasks waited; 0 when it is not told.

    The kernel has it where it was built with CONFIG_PSI and booted without `psi=0` (the kernel's
    Documentation/accounting/psi.rst).
    """
    try:
        text = path.read_text()
    except OSError:
        return 0.0
    found = re.search(r"^full avg10=([\d.]+) ", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


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
