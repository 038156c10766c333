"""QMP's words become labd's."""

from __future__ import annotations

import pytest

from labd.drivers.node.qemu.folding import agent_change, event_time, fold, run_state
from labd.model.machine import GuestEventKind, RunState

_K = GuestEventKind
STAMP = {"seconds": 1_700_000_000, "microseconds": 250_000}


def qmp(name: str, **data: object) -> dict[str, object]:
    return {"event": name, "timestamp": STAMP, "data": data}


@pytest.mark.parametrize(
    ("event", "kind", "data"),
    [
        (qmp("STOP"), _K.PAUSED, {}),
        (qmp("RESUME"), _K.RESUMED, {}),
        (
            qmp("RESET", guest=True, reason="guest-reset"),
            _K.RESET,
            {"guest": True, "reason": "guest-reset"},
        ),
        (
            qmp("SHUTDOWN", guest=True, reason="guest-shutdown"),
            _K.POWERED_OFF,
            {"guest": True, "reason": "guest-shutdown"},
        ),
        (qmp("GUEST_PANICKED", action="pause"), _K.PANICKED, {"action": "pause"}),
        (
            qmp("GUEST_CRASHLOADED", action="run"),
            _K.PANICKED,
            {"action": "run", "crash_kernel": True},
        ),
        (qmp("WATCHDOG", action="reset"), _K.WATCHDOG, {"action": "reset"}),
        (
            qmp("BLOCK_IO_ERROR", device="disk0", operation="write", nospace=True),
            _K.IO_ERROR,
            {"device": "disk0", "operation": "write", "nospace": True},
        ),
        (qmp("VSERPORT_CHANGE", id="agent0", open=True), _K.AGENT_OPENED, {}),
    ],
)
def test_events(event: dict[str, object], kind: GuestEventKind, data: dict[str, object]) -> None:
    folded = fold("k1", event)
    assert folded is not None
    assert (folded.key, folded.kind, folded.data) == ("k1", kind, data)
    assert folded.time == 1_700_000_000.25


@pytest.mark.parametrize(
    "event",
    [
        qmp("SHUTDOWN", guest=False, reason="host-qmp-quit"),
        qmp("SHUTDOWN", guest=False, reason="host-signal"),
        qmp("VSERPORT_CHANGE", id="agent0", open=False),
        qmp("VSERPORT_CHANGE", id="other", open=True),
        qmp("RTC_CHANGE", offset=1),
        qmp("NO_SUCH_EVENT"),
        {"event": "JOB_STATUS_CHANGE"},
    ],
)
def test_what_is_not_told(event: dict[str, object]) -> None:
    assert fold("k1", event) is None


def test_text_of_the_guest_is_bounded() -> None:
    folded = fold("k1", qmp("GUEST_PANICKED", info="x" * 100_000))
    assert folded is not None
    assert folded.data["info"] == "x" * 500


def test_the_agent_port() -> None:
    assert agent_change(qmp("VSERPORT_CHANGE", id="agent0", open=True)) is True
    assert agent_change(qmp("VSERPORT_CHANGE", id="agent0", open=False)) is False
    assert agent_change(qmp("VSERPORT_CHANGE", id="x", open=True)) is None
    assert agent_change(qmp("STOP")) is None


def test_an_event_without_a_timestamp() -> None:
    assert event_time({"event": "STOP"}) == 0.0


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("prelaunch", RunState.PRELAUNCH),
        ("inmigrate", RunState.PRELAUNCH),
        ("running", RunState.RUNNING),
        ("paused", RunState.PAUSED),
        ("shutdown", RunState.SHUTDOWN),
        ("guest-panicked", RunState.PANICKED),
        ("internal-error", RunState.PANICKED),
        ("io-error", RunState.IO_ERROR),
        ("from-a-later-qemu", RunState.PAUSED),
    ],
)
def test_states(status: str, state: RunState) -> None:
    assert run_state({"status": status, "running": False}) is state


def test_a_status_of_the_wrong_shape() -> None:
    assert run_state(None) is RunState.PAUSED
    assert run_state([]) is RunState.PAUSED
