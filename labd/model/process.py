"""Identity of a process that holds over pid reuse and reboots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process, once and for all.

    Attributes:
        pid: Process id in labd's own pid namespace.
        start_time_ticks: Field 22 of `/proc/PID/stat` (proc(5)), clock ticks since boot.
        boot_id: `/proc/sys/kernel/random/boot_id`.
    """

    pid: int
    start_time_ticks: int
    boot_id: str


# What is done with the process of a machine while it comes up: its identity is written.
Spawned = Callable[[ProcessId], Awaitable[object]]
