"""The one back-off and the one rate limiter, by a clock that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.host.backoff import Backoff
from labd.host.ratelimit import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_the_bound() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.pause() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.pause() == 0.5


def test_without_a_bound_they_double_for_ever() -> None:
    backoff = Backoff(1.0)
    assert [backoff.pause() for _ in range(12)][-1] == 2048.0


def test_a_steady_try_begins_anew() -> None:
    clock = Clock()
    backoff = Backoff(1.0, 8.0, steady=60.0, clock=clock)
    for lasted, pause in [(0, 1.0), (60, 2.0), (1, 4.0), (60.5, 1.0), (0, 2.0)]:
        backoff.begin()
        clock.now += lasted
        assert backoff.pause() == pause


def test_jitter_shortens_by_its_part_at_most() -> None:
    drawn = iter([0.0, 1.0, 0.5])
    backoff = Backoff(4.0, 4.0, jitter=0.5, draw=lambda: next(drawn))
    assert [backoff.pause() for _ in range(3)] == [4.0, 2.0, 3.0]


def test_jitter_differs_without_a_draw_of_the_tests() -> None:
    pauses = {Backoff(1.0, jitter=0.5).pause() for _ in range(20)}
    assert len(pauses) > 1
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(2.0, 3, clock=clock)
    assert [limiter.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.now += 0.25
    assert limiter.take() == pytest.approx(0.25)
    clock.now += 0.25
    assert limiter.take() == 0.0
    clock.now += 100
    assert [limiter.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_what_is_owed_has_to_be_paid_for() -> None:
    clock = Clock()
    limiter = RateLimiter(10.0, 5, clock=clock)
    assert limiter.owe(5) == 0.0
    assert limiter.owe(10) == 1.0
    assert limiter.owe(1) == pytest.approx(1.1)
    assert limiter.take() > 0
    clock.now += 1.1
    assert limiter.owe(0) == pytest.approx(0.0)
    limiter.refill()
    assert limiter.owe(5) == 0.0


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_more_pass_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(3.0, 4, clock=clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        while limiter.take() == 0.0:
            passed += 1
    assert passed <= 4 + 3.0 * (clock.now - 1000.0) + 1e-6
