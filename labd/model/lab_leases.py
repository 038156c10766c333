"""Leases of labs: until when a lab may run, and when it goes. Not the addresses that DHCP leases.

Values only; `labd.features.leases.plan` has the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WARNINGS = (900.0, 300.0, 60.0)  # seconds before the end at which it is told, by default
KEEP = 86400.0  # seconds between the end and the destruction, by default


class LeaseStage(StrEnum):
    """What a lease waits for."""

    RUNNING = "running"  # the end, at which the lab is stopped
    ENDED = "ended"  # the end of the grace period, at which the lab is destroyed


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, by three clocks.

    Attributes:
        wall: Unix time in seconds; people and NTP set it, so it may jump.
        boottime: CLOCK_BOOTTIME in seconds (clock_gettime(2)): never set, and counts suspension.
        boot_id: Of the kernel that counts `boottime`.
    """

    wall: float
    boottime: float
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAsk:
    """A lease as it is asked for: one of `seconds` and `until`.

    Attributes:
        seconds: From now on.
        until: RFC 3339 with a zone, or empty.
        keep: Seconds from the end until the lab is destroyed.
        warn: Seconds before the end at which an event warns.
    """

    seconds: float | None = None
    until: str = ""
    keep: float = KEEP
    warn: tuple[float, ...] = WARNINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class LabLease:
    """The lease of a lab.

    Attributes:
        lab: Its name.
        stage: What it waits for.
        due: Unix time at which the stage is over; follows the wall clock when that is set anew.
        boot_due: The same by CLOCK_BOOTTIME of the boot `boot_id`; decides during that boot.
        left: Seconds of the stage that were left when this was written.
        keep: Seconds of the stage `ended`.
        warn: Seconds before the end at which an event warns, the largest first.
        pending: Those of them that were not told yet.
    """

    lab: str
    stage: LeaseStage
    due: float
    boot_due: float
    boot_id: str
    left: float
    keep: float
    warn: tuple[float, ...]
    pending: tuple[float, ...]
