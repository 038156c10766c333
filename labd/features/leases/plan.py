"""The rules of leases: what is due for one at a moment. Pure.

A lease is a promise of a duration. During one boot of the host it is counted by CLOCK_BOOTTIME,
which nobody sets and which goes on while the host is suspended, so that a jump of the wall clock
neither ends a lease early nor prolongs it: the deadline that people see is moved along with the
wall clock. Only over a reboot the wall clock has to be believed. It then never gives more than was
left before, and never takes the last minutes at once: a clock that is wrong until NTP sets it must
not destroy a lab.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from enum import StrEnum

from labd.model.errors import InputError
from labd.model.lab_leases import LabLease, LeaseAsk, LeaseStage, Moment

LONGEST = 366 * 86400.0  # seconds
_STEP = 2.0  # seconds by which the wall clock may differ before it counts as set anew
_SETTLE = 600.0  # seconds that a lease has after a reboot, whatever the wall clock says
_MOST_WARNINGS = 10


class LeaseAct(StrEnum):
    """What is due."""

    NOTHING = "nothing"
    MOVED = "moved"  # the deadline is to be written anew: the wall clock was set
    WARN = "warn"
    END = "end"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStep:
    """What is due for a lease, and the lease after it.

    Attributes:
        left: Seconds until the stage is over; negative when it should have been.
        before: The warning that is told, in seconds before the end.
    """

    act: LeaseAct
    lease: LabLease
    left: float
    before: float = 0.0


def ends(lease: LabLease) -> float:
    """Return the Unix time at which the lab is, or was, stopped."""
    return lease.due if lease.stage is LeaseStage.RUNNING else lease.due - lease.keep


def destroys(lease: LabLease) -> float:
    """Return the Unix time at which the lab is destroyed."""
    return lease.due + lease.keep if lease.stage is LeaseStage.RUNNING else lease.due


def seconds_of(ask: LeaseAsk, now: Moment) -> float:
    """Return how long the lease that is asked for lasts.

    Raises:
        InputError: It would be over at once or never; or `keep` or `warn` make no sense.
    """
    if (ask.seconds is None) is (not ask.until):
        raise InputError("a lease needs a duration such as 3h, or a time at which it ends")
    if not 0 <= ask.keep <= LONGEST:
        raise InputError("the time from the end to the destruction must be 0 s to 366 days")
    if len(ask.warn) > _MOST_WARNINGS or not all(0 < item <= LONGEST for item in ask.warn):
        raise InputError(f"at most {_MOST_WARNINGS} warnings can be given, each before the end")
    if ask.seconds is not None:
        return _length(ask.seconds)
    try:
        at = dt.datetime.fromisoformat(ask.until)
    except ValueError:
        at = dt.datetime(1, 1, 1)  # noqa: DTZ001 - without a zone, as refused below
    if at.tzinfo is None:
        raise InputError(
            f"{ask.until[:40]!r} is no time for the end of a lease: write a duration such as 3h, "
            "or a time with its zone such as 2026-01-31T18:00:00Z"
        )
    left = at.timestamp() - now.wall
    if left <= 0:
        raise InputError(f"the lease would have ended at {ask.until}, which is in the past")
    return _length(left)


def _length(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds <= 0:
        raise InputError("a lease of no time would end in the past: write a duration such as 3h")
    if seconds > LONGEST:
        raise InputError("a lease lasts 366 days at most; a lab without one runs for ever")
    return seconds


def begun(lab: str, ask: LeaseAsk, now: Moment) -> LabLease:
    """Return a new lease.

    Raises:
        InputError: See `seconds_of`.
    """
    warn = tuple(sorted(set(ask.warn), reverse=True))
    lease = LabLease(
        lab=lab,
        stage=LeaseStage.RUNNING,
        due=0,
        boot_due=0,
        boot_id="",
        left=0,
        keep=ask.keep,
        warn=warn,
        pending=(),
    )
    return _running(lease, seconds_of(ask, now), now)


def extended(lease: LabLease, seconds: float, now: Moment) -> LabLease:
    """Return a lease that lasts longer; one that has ended begins again.

    Raises:
        InputError: It would not be longer, or too long.
    """
    if not math.isfinite(seconds) or seconds <= 0:
        raise InputError(
            "a lease is extended by a time such as 1h; `lab lease set` makes one shorter"
        )
    running = lease.stage is LeaseStage.RUNNING
    before = max(remaining(lease, now), 0.0) if running else 0.0
    return _running(lease, _length(before + seconds), now)


def _running(lease: LabLease, left: float, now: Moment) -> LabLease:
    pending = tuple(item for item in lease.warn if item < left)
    return _anchored(replace(lease, stage=LeaseStage.RUNNING, pending=pending), left, now)


def _anchored(lease: LabLease, left: float, now: Moment) -> LabLease:
    """Return a lease whose stage lasts `left` seconds from now on, by every clock."""
    return replace(
        lease,
        due=now.wall + left,
        boot_due=now.boottime + left,
        boot_id=now.boot_id,
        left=left,
    )


def remaining(lease: LabLease, now: Moment) -> float:
    """Return the seconds until the stage of a lease is over."""
    if lease.boot_id == now.boot_id:
        return lease.boot_due - now.boottime
    return min(lease.left, max(lease.due - now.wall, _SETTLE))


def plan(lease: LabLease, now: Moment) -> LeaseStep:
    """Return what is due for a lease, and the lease as it is to be written then.

    A lab whose lease has ended is destroyed once, by the step DESTROY, which is due again until the
    lab is no more. Of several warnings that are late only the last is told.
    """
    left = remaining(lease, now)
    if left <= 0:
        if lease.stage is LeaseStage.ENDED:
            return LeaseStep(act=LeaseAct.DESTROY, lease=lease, left=left)
        ended = _anchored(replace(lease, stage=LeaseStage.ENDED, pending=()), lease.keep, now)
        return LeaseStep(act=LeaseAct.END, lease=ended, left=left)
    due = [item for item in lease.pending if item >= left]
    if due:
        pending = tuple(item for item in lease.pending if item < left)
        told = _anchored(replace(lease, pending=pending), left, now)
        return LeaseStep(act=LeaseAct.WARN, lease=told, left=left, before=min(due))
    if lease.boot_id != now.boot_id or abs(now.wall + left - lease.due) > _STEP:
        return LeaseStep(act=LeaseAct.MOVED, lease=_anchored(lease, left, now), left=left)
    return LeaseStep(act=LeaseAct.NOTHING, lease=lease, left=left)
