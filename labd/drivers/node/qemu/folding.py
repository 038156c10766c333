"""QMP's events and states, folded to labd's. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from labd.drivers.node.qemu.devices import AGENT_ID
from labd.model.machine import GuestEvent, GuestEventKind, RunState

# What `query-status` may say (QAPI RunState), folded to what labd acts on.
_STATES: Final[Mapping[str, RunState]] = {
    "prelaunch": RunState.PRELAUNCH,
    "inmigrate": RunState.PRELAUNCH,
    "running": RunState.RUNNING,
    "suspended": RunState.RUNNING,  # the guest sleeps (ACPI S3) and wakes by itself
    "paused": RunState.PAUSED,
    "debug": RunState.PAUSED,
    "save-vm": RunState.PAUSED,
    "restore-vm": RunState.PAUSED,
    "finish-migrate": RunState.PAUSED,
    "postmigrate": RunState.PAUSED,
    "colo": RunState.PAUSED,
    "watchdog": RunState.PAUSED,
    "shutdown": RunState.SHUTDOWN,
    "guest-panicked": RunState.PANICKED,
    "internal-error": RunState.PANICKED,  # the CPU met what KVM cannot run: only a reset helps
    "io-error": RunState.IO_ERROR,
}
_KINDS: Final[Mapping[str, GuestEventKind]] = {
    "STOP": GuestEventKind.PAUSED,
    "RESUME": GuestEventKind.RESUMED,
    "RESET": GuestEventKind.RESET,
    "SHUTDOWN": GuestEventKind.POWERED_OFF,
    "GUEST_PANICKED": GuestEventKind.PANICKED,
    "GUEST_CRASHLOADED": GuestEventKind.PANICKED,
    "WATCHDOG": GuestEventKind.WATCHDOG,
    "BLOCK_IO_ERROR": GuestEventKind.IO_ERROR,
}
# QEMU itself is about to end, which EXITED will tell: the guest did not power off.
_OURS = frozenset({"host-qmp-quit", "host-signal", "host-error", "host-ui"})
_TEXT_LIMIT = 500  # characters
_PART_LIMIT = 2000  # characters of JSON, of what is no text
_PARTS = 32  # of one event; QEMU's own have a handful
_INFINITE = re.compile(r"NaN|Infinity")  # no numbers of JSON (RFC 8259), though Python reads them
_LATEST = 1 << 40  # seconds since the epoch


def run_state(status: object) -> RunState:
    """Return the state of a `query-status` answer; an unknown one counts as paused."""
    word = status.get("status") if isinstance(status, Mapping) else None
    return _STATES.get(str(word), RunState.PAUSED)


def event_time(event: Mapping[str, object]) -> float:
    """Return QMP's timestamp in seconds since the epoch."""
    stamp = event.get("timestamp")
    if not isinstance(stamp, Mapping):
        return 0.0
    seconds, micros = (_count(stamp.get(name)) for name in ("seconds", "microseconds"))
    return seconds + micros / 1e6


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _LATEST else 0


def fold(key: str, event: Mapping[str, object]) -> GuestEvent | None:
    """Return labd's event for one of QMP's; None for one that labd does not tell."""
    name = str(event.get("event"))
    raw = event.get("data")
    data: dict[str, object] = dict(raw) if isinstance(raw, Mapping) else {}
    if name == "VSERPORT_CHANGE":
        if data.get("id") != AGENT_ID or not data.get("open"):
            return None
        kind = GuestEventKind.AGENT_OPENED
        data = {}
    elif name in _KINDS:
        kind = _KINDS[name]
        if kind is GuestEventKind.POWERED_OFF and str(data.get("reason")) in _OURS:
            return None
        if name == "GUEST_CRASHLOADED":
            data["crash_kernel"] = True
    else:
        return None
    return GuestEvent(key=key, kind=kind, time=event_time(event), data=_bounded(data))


def agent_change(event: Mapping[str, object]) -> bool | None:
    """Return whether the guest agent's port is open now; None when the event is of another."""
    data = event.get("data")
    if event.get("event") != "VSERPORT_CHANGE" or not isinstance(data, Mapping):
        return None
    return bool(data.get("open")) if data.get("id") == AGENT_ID else None


def _bounded(data: Mapping[str, object]) -> dict[str, object]:
    # A panic record carries text of the guest's.
    return {key[:_TEXT_LIMIT]: _part(value) for key, value in list(data.items())[:_PARTS]}


def _part(value: object) -> object:
    if isinstance(value, str):
        return value[:_TEXT_LIMIT]
    if value is None or isinstance(value, bool):
        return value
    text = json.dumps(value)
    return value if len(text) <= _PART_LIMIT and _INFINITE.search(text) is None else "(not kept)"
