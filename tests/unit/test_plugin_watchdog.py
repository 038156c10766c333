"""watchdog: what it decides; that it does so is tested with its process in tests/system."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from labd.model.states import NodeState

REPO = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """Import a shipped plugin, which does not run then."""
    spec = importlib.util.spec_from_file_location(
        f"plugin_{name}", REPO / "plugins" / name / "plugin.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their own up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def watchdog() -> ModuleType:
    return load("watchdog")


@pytest.mark.parametrize(
    ("restarts", "delay"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (64, 60), (10**9, 60)]
)
def test_the_wait_doubles_up_to_the_longest(
    watchdog: ModuleType, restarts: int, delay: float
) -> None:
    assert watchdog.delay_for(restarts, 1.0, 60.0) == delay


@pytest.mark.parametrize(
    ("first", "longest", "delay"), [(0.0, 60.0, 0.0), (90.0, 60.0, 60.0), (0.5, 1.0, 1.0)]
)
def test_the_longest_wait_holds_for_the_first_too(
    watchdog: ModuleType, first: float, longest: float, delay: float
) -> None:
    assert watchdog.delay_for(3, first, longest) == delay


def test_only_restarts_within_the_window_count(watchdog: ModuleType) -> None:
    assert watchdog.recent([10.0, 40.0, 41.0, 99.0], 100.0, 60.0) == [41.0, 99.0]
    assert watchdog.recent([], 100.0, 60.0) == []
    assert watchdog.recent([99.0], 100.0, 0.0) == []


def node(state: str, mode: str, wanted: str = "running") -> dict[str, object]:
    restart = {"mode": mode, "limit": 5, "window": 60}
    return {"state": state, "wanted": wanted, "spec": {"restart": restart}}


DUE = {
    **{("on-failure", state): True for state in ("crashed", "panicked", "unresponsive")},
    **{("always", state): True for state in ("crashed", "panicked", "unresponsive", "stopped")},
}


@pytest.mark.parametrize("mode", ["no", "on-failure", "always"])
@pytest.mark.parametrize("state", list(NodeState))
def test_what_is_due(watchdog: ModuleType, mode: str, state: str) -> None:
    assert watchdog.is_due(node(state, mode)) is DUE.get((mode, state), False)
    assert watchdog.is_due(node(state, mode, wanted="stopped")) is False
    # Its own start failed, which leaves the node stopped: that is a failure still.
    tried = DUE.get((mode, state), False) or (mode == "on-failure" and state == "stopped")
    assert watchdog.is_due(node(state, mode), tried=True) is tried


@pytest.mark.parametrize("told", [{}, {"spec": None}, {"spec": {}}, {"spec": {"restart": None}}])
def test_a_node_without_a_policy_is_left_alone(
    watchdog: ModuleType, told: dict[str, object]
) -> None:
    found = {"state": "crashed", "wanted": "running", **told}
    assert watchdog.policy_of(found)["mode"] == "no"
    assert watchdog.is_due(found) is False
