"""The rules of leases, on clocks that jump; and `lab lease` on the real API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.features.leases.plan import (
    LeaseAct,
    begun,
    destroys,
    ends,
    extended,
    plan,
    remaining,
    seconds_of,
)
from labd.model.errors import InputError
from labd.model.lab_leases import LabLease, LeaseAsk, LeaseStage, Moment
from labd.model.units import rfc3339
from tests.fakes.daemon import Clock
from tests.unit.api_server import Server, api_server
from tests.unit.cli_runner import Cli

H, D = 3600.0, 86400.0
START = Moment(wall=1_769_860_800.0, boottime=1000.0, boot_id="one")


def after(seconds: float, *, jump: float = 0.0, now: Moment = START) -> Moment:
    """Return a later moment; `jump` is by how much somebody set the wall clock meanwhile."""
    return replace(now, wall=now.wall + seconds + jump, boottime=now.boottime + seconds)


def lease(seconds: float = 3 * H) -> LabLease:
    return begun("web", LeaseAsk(seconds=seconds), START)


def run(it: LabLease, now: Moment) -> tuple[LeaseAct, LabLease]:
    step = plan(it, now)
    return step.act, step.lease


def test_a_lease_from_begin_to_end() -> None:
    it = lease()
    assert (rfc3339(ends(it)), rfc3339(destroys(it))) == (
        "2026-01-31T15:00:00Z",
        "2026-02-01T15:00:00Z",
    )
    seen = []
    for second in range(0, int(28 * H), 10):
        act, it = run(it, after(second))
        if act is not LeaseAct.NOTHING:
            seen.append((act, second))
        if act is LeaseAct.DESTROY:
            break
    assert seen == [
        (LeaseAct.WARN, 3 * H - 900),
        (LeaseAct.WARN, 3 * H - 300),
        (LeaseAct.WARN, 3 * H - 60),
        (LeaseAct.END, 3 * H),
        (LeaseAct.DESTROY, 3 * H + D),
    ]
    assert it.stage is LeaseStage.ENDED


@given(st.floats(-20 * 365 * D, 20 * 365 * D), st.floats(0, 3 * H - 901))
def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs(jump: float, when: float) -> None:
    it = lease()
    act, it = run(it, after(when, jump=jump))
    assert act is (LeaseAct.MOVED if abs(jump) > 2 else LeaseAct.NOTHING)
    assert remaining(it, after(when, jump=jump)) == pytest.approx(3 * H - when)
    if act is LeaseAct.MOVED:
        # People see it end as many hours from now as were left.
        assert ends(it) == pytest.approx(START.wall + 3 * H + jump)
    assert run(it, after(3 * H, jump=jump))[0] is LeaseAct.END


def test_a_host_that_was_suspended_goes_on_counting() -> None:
    # CLOCK_BOOTTIME and the wall clock both went on.
    assert run(lease(), after(5 * H))[0] is LeaseAct.END


def reboot(now: Moment) -> Moment:
    return replace(now, boottime=7.0, boot_id="two")


def test_over_a_reboot_the_wall_clock_counts() -> None:
    it = lease()
    now = reboot(after(2 * H))
    act, it = run(it, now)
    assert act is LeaseAct.MOVED
    assert remaining(it, now) == pytest.approx(H)
    assert run(it, after(H - 901, now=now))[0] is LeaseAct.NOTHING
    assert run(it, after(H + 1, now=now))[0] is LeaseAct.END


def test_a_clock_of_1970_after_a_reboot_does_not_prolong() -> None:
    it = lease()
    now = reboot(after(2 * H, jump=-START.wall))
    _, it = run(it, now)
    assert remaining(it, now) == pytest.approx(3 * H), "no more than was known to be left"
    set_right = after(1.0, jump=START.wall, now=now)
    _, it = run(it, set_right)
    assert remaining(it, set_right) == pytest.approx(3 * H - 1)


def test_a_clock_of_the_future_after_a_reboot_does_not_destroy_at_once() -> None:
    it = replace(lease(), warn=(), pending=())
    now = reboot(after(60.0, jump=3650 * D))
    act, it = run(it, now)
    assert act is LeaseAct.MOVED
    assert remaining(it, now) == 600
    act, it = run(it, after(601, now=now))
    assert act is LeaseAct.END
    again = replace(now, boot_id="three", wall=now.wall + 3650 * D)
    act, it = run(it, again)
    assert (act, remaining(it, again)) == (LeaseAct.MOVED, 600)


def test_of_late_warnings_only_the_last_is_told() -> None:
    step = plan(lease(), after(3 * H - 200))
    assert (step.act, step.before, round(step.left)) == (LeaseAct.WARN, 300, 200)
    assert step.lease.pending == (60.0,)
    assert run(step.lease, after(3 * H - 200))[0] is LeaseAct.NOTHING


def test_warnings_longer_than_the_lease_are_not_told() -> None:
    assert lease(120).pending == (60,)
    ask = LeaseAsk(seconds=120, warn=(60, 5, 60))
    assert begun("web", ask, START).pending == (60, 5)


def test_an_extension_counts_from_the_end_and_warns_again() -> None:
    told = plan(lease(), after(3 * H - 30)).lease
    assert told.pending == ()
    it = extended(told, H, after(3 * H - 30))
    assert ends(it) == START.wall + 4 * H
    assert it.pending == (900, 300, 60)


def test_an_ended_lease_is_extended_from_now() -> None:
    it = plan(lease(), after(3 * H)).lease
    it = extended(it, H, after(5 * H))
    assert it.stage is LeaseStage.RUNNING
    assert ends(it) == START.wall + 6 * H
    assert it.keep == D


def test_the_grace_begins_when_the_lab_is_stopped() -> None:
    it = plan(lease(), after(40 * H)).lease  # labd was away
    assert destroys(it) == START.wall + 40 * H + D
    assert ends(it) == START.wall + 40 * H


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (LeaseAsk(), "a lease needs a duration such as 3h, or a time at which it ends"),
        (
            LeaseAsk(seconds=0),
            "a lease of no time would end in the past: write a duration such as 3h",
        ),
        (
            LeaseAsk(seconds=-5),
            "a lease of no time would end in the past: write a duration such as 3h",
        ),
        (
            LeaseAsk(seconds=400 * D),
            "a lease lasts 366 days at most; a lab without one runs for ever",
        ),
        (
            LeaseAsk(until="2026-01-31T11:59:59Z"),
            "the lease would have ended at 2026-01-31T11:59:59Z, which is in the past",
        ),
        (
            LeaseAsk(until="2026-01-31T18:00"),
            (
                "'2026-01-31T18:00' is no time for the end of a lease: write a duration such as "
                "3h, or a time with its zone such as 2026-01-31T18:00:00Z"
            ),
        ),
        (
            LeaseAsk(seconds=H, keep=-1),
            "the time from the end to the destruction must be 0 s to 366 days",
        ),
        (
            LeaseAsk(seconds=H, warn=(0,)),
            "at most 10 warnings can be given, each before the end",
        ),
    ],
)
def test_a_lease_that_makes_no_sense_is_refused(ask: LeaseAsk, message: str) -> None:
    with pytest.raises(InputError) as error:
        seconds_of(ask, START)
    assert error.value.message == message


def test_a_time_with_a_zone() -> None:
    assert seconds_of(LeaseAsk(until="2026-01-31T14:00:00+01:00"), START) == H


def test_an_extension_by_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="extended by a time such as 1h"):
        extended(lease(), 0, START)
    with pytest.raises(InputError, match="366 days"):
        extended(lease(), 366 * D, START)


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server whose clocks stand still, at 2026-01-31T12:00:00Z."""
    with api_server(moment=Clock()) as running:
        yield running


def test_the_verb(lab: Cli) -> None:
    lab("up", lab.web, "--lease", "3h", "--keep-for", "2d")
    assert lab("lease", "show", "web") == (
        "lab web: its lease ends at 2026-01-31 15:00:00 UTC, in 3 h; "
        "it will be destroyed at 2026-02-02 15:00:00 UTC\n"
    )
    assert "its lease ends at 2026-01-31 15:00:00 UTC" in lab("status", "web")
    assert "in 4 h 30 min" in lab("lease", "extend", "web", "90m")
    assert lab("lease", "ls").splitlines()[1].split()[:5] == ["web", "4", "h", "30", "min"]
    said = lab("--json", "lease", "set", "web", "2026-01-31T13:00:00Z", "--warn", "10m,30s")
    assert '"warn": [\n    600.0,\n    30.0\n  ]' in said
    assert lab("lease", "cancel", "web") == "lab web has no lease any more\n"
    assert lab("lease", "show", "web", expect=4) == (
        "lab: lab web has no lease; `lab lease set web 3h` gives it one\n"
    )
    assert lab.both("lease", "ls") == ("", "no leases; `lab lease set LAB 3h` makes one\n")


def test_bad_words(lab: Cli) -> None:
    lab("up", lab.web)
    assert lab("lease", "set", "web", "2020-01-01T00:00:00Z", expect=2) == (
        "lab: the lease would have ended at 2020-01-01T00:00:00Z, which is in the past\n"
    )
    assert "would end in the past" in lab("lease", "set", "web", "0s", expect=2)
    assert "neither a duration such as 3h nor" in lab("lease", "set", "web", "soon", expect=2)
    assert lab("up", lab.web, "--keep-for", "1d", expect=2) == (
        "lab: --keep-for needs a --lease after which the lab is kept\n"
    )
    assert lab("lease", "set", "nope", "3h", expect=4)
