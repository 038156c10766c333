"""The page of events, the types of the model, and what says them: each of the three is whole."""

from __future__ import annotations

import ast
from pathlib import Path

from labd.model.events import EventType
from tests.event_contract import promised, unpromised

LABD = Path(__file__).parents[2] / "labd"


def test_the_page_tells_of_every_type_and_of_no_other() -> None:
    assert promised().keys() == {kind.value for kind in EventType}


def test_every_type_is_said_by_somebody() -> None:
    said = {
        inner.attr
        for path in LABD.rglob("*.py")
        if path.name != "events.py" or path.parent.name != "model"
        for inner in ast.walk(ast.parse(path.read_text()))
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.value, ast.Name)
        and inner.value.id in {"EventType", "_T"}
    }
    assert {kind.name for kind in EventType} - said == set()


def test_what_the_page_does_not_tell_of_is_found() -> None:
    assert unpromised([("node.reset", {"guest": True}), ("lab.state", {"to": ""})]) == []
    assert unpromised([("node.vanished", {}), ("node.reset", {"cause": "x"})]) == [
        "events.md does not tell of 'cause' of node.reset",
        "events.md does not tell of node.vanished",
    ]
    assert {"from", "to", "reason", "signal"} <= promised()["node.crashed"]
    assert promised()["host.memory-ok"] == promised()["host.memory-low"]
