"""Events as plugins see them, and the scopes that they may ask for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labd.api.rules import Scope
from labd.features.plugins.manifest import SCOPES
from labd.model.events import Event as Told
from labd.model.events import EventDraft, EventType
from labd.plugin.event import Event


def told(kind: EventType = EventType.NODE_CRASHED, **fields: str) -> Event:
    draft = EventDraft(type=kind, data={"signal": 9}, **fields)
    return Event.of(Told(seq=7, time="t", source="/labd/h", draft=draft).cloudevent())


def test_an_event_is_unpacked() -> None:
    event = told(lab="web", node="db", operation="op-1")
    assert (event.seq, event.type, event.time) == (7, "node.crashed", "t")
    assert (event.lab, event.node, event.operation) == ("web", "db", "op-1")
    assert event.subject == "web/db"
    assert event.data == {"signal": 9}
    assert event.record["source"] == "/labd/h"
    assert told(EventType.DAEMON_STARTED).lab == ""


@pytest.mark.parametrize(
    "record", [{}, {"seq": "7"}, {"seq": 7, "data": []}, {"seq": None, "data": {}}, {"seq": True}]
)
def test_what_is_no_event_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no event of labd"):
        Event.of(record)


@pytest.mark.parametrize(
    ("pattern", "lab", "matches"),
    [
        ("*", "", True),
        ("node.*", "", True),
        ("node.crashed", "web", True),
        ("node.crash", "", False),
        ("lab.*", "", False),
        ("node.*", "other", False),
    ],
)
def test_patterns(pattern: str, lab: str, matches: bool) -> None:
    assert told(lab="web", node="db").matches(pattern, lab) is matches


def test_snapshots_are_no_events() -> None:
    assert Event.of({"seq": 1, "type": "io.labd.node.snapshot"}).is_state
    assert not told().is_state


def test_manifests_may_ask_for_every_scope_but_the_administrators() -> None:
    assert {str(scope) for scope in Scope} - {
        "any",
        "plugins:admin",
        "host:write",
        "people:admin",
    } == SCOPES


def test_the_sdk_is_light() -> None:
    code = "import sys, labd.plugin; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"fastapi", "uvicorn", "pydantic", "pyroute2", "aiosqlite", "qemu", "ruamel", "click"}
    loaded = set(done.stdout.split())
    assert not heavy & loaded
    assert "labd.features.plugins.supervisor" not in loaded
