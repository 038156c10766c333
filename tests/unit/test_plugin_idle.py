"""idle: what it decides; that it does so is tested with its process in tests/system."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from labd.features.plugins.manifest import read
from labd.model.errors import ConfigError
from tests.unit.test_plugin_watchdog import REPO, load


@pytest.fixture(scope="module")
def idle() -> ModuleType:
    return load("idle")


def policy(idle: ModuleType, **given: object) -> Any:
    """Return the policy of settings, checked as labd does."""
    return idle.Policy.of(read(REPO / "plugins" / "idle").check_settings(given))


def test_settings_as_labd_checks_them(idle: ModuleType) -> None:
    made = policy(idle)
    assert (made.after, made.warn_before, made.lease) == (1800, 300, 3600)
    assert (made.action, made.exempt) == ("stop", ())
    made = policy(idle, after="2s", exempt="exam,demo-*")
    assert made.after == 2
    assert [made.spares(lab) for lab in ("exam", "demo-1", "exam2", "web")] == [
        True,
        True,
        False,
        False,
    ]


def test_what_is_ignored_is_no_use(idle: ModuleType) -> None:
    told = {"sources": {"start": 900.0, "exec": 500.0, "traffic": 3.0}}
    assert policy(idle).idle(told) == 3
    made = policy(idle, ignore="traffic,console")
    assert made.idle(told) == 500
    with pytest.raises(ConfigError, match="setting ignore: must be some of operation, console,"):
        policy(idle, ignore="traffic,noise")


@pytest.mark.parametrize(
    ("after", "warn", "interval"),
    [(1800, 300, 15), (60, 10, 1), (600, 0, 15), (2, 1, 0.5), (1, 0, 0.5)],
)
def test_it_looks_often_enough(
    idle: ModuleType, after: float, warn: float, interval: float
) -> None:
    made = policy(idle, after=after, **{"warn-before": warn})
    assert made.interval == interval


def test_it_warns_in_time_acts_once_and_begins_anew_with_use(idle: ModuleType) -> None:
    made = policy(idle, after=100, **{"warn-before": 30})
    step = idle.Step
    lab, again = idle.seen(None, 69.0)
    assert not again
    assert lab.step(made, 1069.0) is step.NOTHING
    same, again = idle.seen(lab, 70.0)
    assert same is lab
    assert not again
    assert lab.step(made, 1070.0) is step.WARN
    lab.warned = 1070.0
    idle.seen(lab, 99.0)
    assert lab.step(made, 1100.0) is step.NOTHING
    idle.seen(lab, 100.0)
    assert lab.step(made, 1099.0) is step.NOTHING
    assert lab.step(made, 1100.0) is step.ACT
    lab.acted = True
    assert lab.step(made, 2000.0) is step.NOTHING
    lab, again = idle.seen(lab, 99.0)
    assert again
    assert (lab.warned, lab.acted) == (None, False)


def test_who_comes_late_warns_first(idle: ModuleType) -> None:
    made = policy(idle, after=100, **{"warn-before": 30})
    lab, _ = idle.seen(None, 5000.0)
    assert lab.step(made, 9000.0) is idle.Step.WARN
    lab.warned = 9000.0
    assert lab.step(made, 9029.0) is idle.Step.NOTHING
    assert lab.step(made, 9030.0) is idle.Step.ACT


def test_without_a_warning_it_acts_at_once(idle: ModuleType) -> None:
    made = policy(idle, after=100, **{"warn-before": 0})
    assert idle.seen(None, 99.0)[0].step(made, 0.0) is idle.Step.NOTHING
    assert idle.seen(None, 100.0)[0].step(made, 0.0) is idle.Step.ACT
