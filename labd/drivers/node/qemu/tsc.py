"""The host's time-stamp counter, which software emulation shows to its guests.

A Linux guest measures it against the PIT; on a busy host that measurement fails now and then. PCs
then fall back on other timers, but a microvm with ACPI has none, and hangs before its first line.
So labd tells such a kernel the frequency (`tsc_early_khz`, kernel-parameters.txt).
"""

from __future__ import annotations

import functools
import re
from contextlib import suppress
from pathlib import Path

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_NOW = re.compile(r"^cpu MHz\s*:\s*(\d+)\.(\d{3})", re.MULTILINE)
_NOMINAL = re.compile(r"^model name\s*:.*@ (\d+)\.(\d{2})GHz", re.MULTILINE)


def parse(cpuinfo: str, base_khz: str, *, scales: bool) -> int:
    """Return the frequency in kHz as far as the host tells it, 0 for unknown. Pure.

    Args:
        cpuinfo: Text of `/proc/cpuinfo`.
        base_khz: Text of cpufreq's `base_frequency`, or empty.
        scales: The clock of the CPU changes, so that `cpu MHz` is not that of the counter.
    """
    if not scales and (now := _NOW.search(cpuinfo)):
        return int(now[1]) * 1000 + int(now[2])
    if base_khz.strip().isdigit():
        return int(base_khz)
    if nominal := _NOMINAL.search(cpuinfo):
        return int(nominal[1]) * 1_000_000 + int(nominal[2]) * 10_000
    return 0


@functools.cache
def host_khz() -> int:
    """Return the frequency of this host's counter in kHz, 0 for unknown."""
    base = ""
    with suppress(OSError):
        base = (_CPUFREQ / "base_frequency").read_text()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        return parse(text, base, scales=_CPUFREQ.exists())
    return 0
