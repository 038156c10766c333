"""The judge of the nemesis: it must fail on a history to which something was done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.chaos.check import History, check
from bench.chaos.fold import fold
from bench.chaos.plan import FAULTS, NETLINK, VERBS, WORLD, acts, faults
from labd.core.guard import registry


def events(*told: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for seq, (kind, more) in enumerate(told, 1):
        extra = {key: value for key, value in more.items() if key in {"operation", "subject"}}
        data = {key: value for key, value in more.items() if key not in extra}
        context = {"lab": "a"} if kind.startswith(("lab", "node")) else {}
        context |= {"node": "n"} if kind.startswith("node") else {}
        found.append({"seq": seq, "type": f"io.labd.{kind}", **context, **extra, "data": data})
    return found


STORY = events(
    ("image.added", {"subject": "disk"}),
    ("operation.started", {"operation": "op-1", "kind": "up"}),
    ("lab.created", {"operation": "op-1"}),
    ("node.created", {"operation": "op-1"}),
    ("node.starting", {"from": "stopped", "to": "starting", "operation": "op-1"}),
    ("node.running", {"from": "starting", "to": "running", "operation": "op-1"}),
    ("node.ready", {"from": "running", "to": "ready"}),
    ("lab.state", {"from": "starting", "to": "running"}),
    ("operation.succeeded", {"operation": "op-1", "kind": "up"}),
    ("node.crashed", {"from": "ready", "to": "crashed", "signal": 9}),
    ("lab.state", {"from": "running", "to": "degraded"}),
)


def history() -> History:
    return History(replay=STORY, heard=[STORY[:6], STORY[4:]], listed=fold(STORY)[0], kills=["a/n"])


def without(number: int) -> list[dict[str, Any]]:
    return [event for event in STORY if event["seq"] != number]


def test_a_good_history_passes() -> None:
    assert check(history()) == []


def test_the_fold_is_the_state() -> None:
    state, problems = fold(STORY)
    assert problems == []
    assert state.labs == {"a": "degraded"}
    assert state.nodes == {"a/n": "crashed"}
    assert state.operations == {"op-1": "succeeded"}
    assert state.names["image"] == {"disk"}
    gone = fold([*STORY, *events(("node.destroyed", {}), ("lab.destroyed", {}))])[0]
    assert (gone.labs, gone.nodes) == ({}, {})


@pytest.mark.parametrize("number", range(1, len(STORY) + 1))
def test_an_event_that_is_missing_is_found(number: int) -> None:
    assert check(replace(history(), replay=without(number)))


def test_events_in_another_order_are_found() -> None:
    swapped = [*STORY[:5], STORY[6], STORY[5], *STORY[7:]]
    assert "event 7 comes after event 5" in check(replace(history(), replay=swapped))


def test_a_state_without_an_event_is_found() -> None:
    listed = fold(STORY)[0]
    listed.nodes["a/n"] = "ready"
    assert check(replace(history(), listed=listed)) == [
        "node a/n is ready, and by its events crashed"
    ]


def test_a_machine_that_nobody_killed_is_found() -> None:
    [problem] = check(replace(history(), kills=[]))
    assert problem.startswith("node a/n ended 1 times on its own account")


def test_a_gap_on_a_connection_is_found_and_a_repetition_is_none() -> None:
    assert check(replace(history(), heard=[[*STORY[:6], *STORY[2:]]])) == []
    assert check(replace(history(), heard=[[STORY[0], STORY[2]]])) == [
        "connection 0 heard event 3 after event 1"
    ]


def test_a_subscriber_that_heard_something_else_is_found() -> None:
    forged = {**STORY[3], "data": {"from": "nowhere"}}
    assert check(replace(history(), heard=[[forged]]))


def test_an_operation_without_an_end_and_a_fault_of_labd_are_found() -> None:
    begun = [event for event in STORY if event["type"] != "io.labd.operation.succeeded"]
    assert "operation op-1 has not ended" in check(replace(history(), replay=begun))
    failed = {
        **STORY[8],
        "type": "io.labd.operation.failed",
        "data": {"error": {"code": "internal"}},
    }
    told = [*STORY[:8], failed, *STORY[9:]]
    assert any("failed by a fault" in text for text in check(replace(history(), replay=told)))


def test_a_seed_says_it_all_and_every_verb_and_fault_has_its_turn() -> None:
    assert list(acts(7, 600)) == list(acts(7, 600))
    assert list(acts(7, 600)) != list(acts(8, 600))
    assert {act.verb for act in acts(1, 1800)} == set(VERBS)
    assert {fault.kind for fault in faults(1, 1800)} == set(FAULTS)
    assert all(fault.at < 540 for fault in faults(3, 600))


def test_the_failpoints_that_faults_arm_are_there() -> None:
    points = registry()
    assert [name for name in (*NETLINK, *WORLD) if f"{name}:before" not in points] == []
