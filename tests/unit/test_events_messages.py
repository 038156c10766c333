"""Events and states as MQTT messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labd.events.messages import (
    Outgoing,
    Snapshot,
    Topics,
    event_messages,
    snapshot_messages,
    status_message,
)
from labd.model.events import Event, EventDraft, EventType
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import LabSpec
from labd.model.states import LabState, NodeState

TOPICS = Topics("00c0ffee")
LAB = LabRecord(
    name="web",
    key="k",
    spec=LabSpec(template="hello"),
    wanted=Wanted.RUNNING,
    state=LabState.RUNNING,
)
NODE = NodeRecord(
    lab="web",
    name="a",
    key="k",
    uuid="u",
    uid=1,
    wanted=Wanted.RUNNING,
    state=NodeState.READY,
    since="2026-01-31T12:00:00.000000Z",
    reason="so",
)
NOTHING = Snapshot(seq=0, labs=[], nodes=[])


def event(kind: EventType, seq: int = 7, **fields: Any) -> Event:
    """Return an event."""
    return Event(
        seq=seq,
        time="2026-01-31T12:00:00.123456Z",
        source="/labd/00c0ffee",
        draft=EventDraft(type=kind, **fields),
    )


def parsed(message: Outgoing) -> Any:
    """Return the payload."""
    return json.loads(message.payload)


def test_an_event_is_a_whole_cloudevent_on_the_topic_of_its_lab() -> None:
    moved = event(
        EventType.NODE_CRASHED,
        lab="web",
        node="a",
        operation="op-1",
        data={"from": "ready", "to": "crashed", "reason": "gone"},
    )
    told, state = event_messages(TOPICS, moved, NOTHING)
    assert told.topic == "labd/v1/00c0ffee/lab/web/events"
    assert not told.retain
    assert parsed(told) == {
        "specversion": "1.0",
        "id": "7",
        "source": "/labd/00c0ffee",
        "type": "io.labd.node.crashed",
        "time": "2026-01-31T12:00:00.123456Z",
        "datacontenttype": "application/json",
        "seq": 7,
        "subject": "web/a",
        "lab": "web",
        "node": "a",
        "operation": "op-1",
        "data": {"from": "ready", "to": "crashed", "reason": "gone"},
    }
    assert state.topic == "labd/v1/00c0ffee/lab/web/node/a/state"
    assert state.retain
    assert parsed(state) == {
        "specversion": "1.0",
        "id": "lab/web/node/a/state@7",
        "source": "/labd/00c0ffee",
        "type": "io.labd.node.snapshot",
        "subject": "web/a",
        "datacontenttype": "application/json",
        "seq": 7,
        "lab": "web",
        "time": "2026-01-31T12:00:00.123456Z",
        "node": "a",
        "data": {"state": "crashed", "reason": "gone"},
    }


@pytest.mark.parametrize(
    ("kind", "fields", "topic", "state"),
    [
        (EventType.LAB_CREATED, {"lab": "web"}, "lab/web/state", "starting"),
        (EventType.LAB_STATE, {"lab": "web", "data": {"to": "x"}}, "lab/web/state", "x"),
        (EventType.NODE_CREATED, {"lab": "web", "node": "a"}, "lab/web/node/a/state", "stopped"),
        (
            EventType.NODE_RESUMED,
            {"lab": "web", "node": "a", "data": {"to": "ready"}},
            "lab/web/node/a/state",
            "ready",
        ),
    ],
)
def test_states_follow_their_events(
    kind: EventType, fields: dict[str, Any], topic: str, state: str
) -> None:
    _, message = event_messages(TOPICS, event(kind, **fields), NOTHING)
    assert message.topic == f"labd/v1/00c0ffee/{topic}"
    assert parsed(message)["data"]["state"] == state


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (EventType.NODE_RESET, {"lab": "web", "node": "a", "data": {"guest": True}}),
        (EventType.LAB_CHANGED, {"lab": "web"}),
        (EventType.NETWORK_UP, {"lab": "web", "subject": "lan", "data": {"to": "up"}}),
        (EventType.OPERATION_PROGRESS, {"lab": "web", "data": {"to": "up"}}),
        (EventType.IMAGE_ADDED, {"subject": "tiny"}),
        (EventType.DAEMON_STARTED, {}),
    ],
)
def test_other_events_touch_no_state_topic(kind: EventType, fields: dict[str, Any]) -> None:
    (message,) = event_messages(TOPICS, event(kind, **fields), NOTHING)
    lab = "/lab/web" if "lab" in fields else ""
    assert message.topic == f"labd/v1/00c0ffee{lab}/events"


@pytest.mark.parametrize(
    ("kind", "node", "topic"),
    [
        (EventType.LAB_DESTROYED, "", "lab/web/state"),
        (EventType.NODE_DESTROYED, "a", "lab/web/node/a/state"),
    ],
)
def test_what_is_destroyed_is_emptied_unless_it_is_there_again(
    kind: EventType, node: str, topic: str
) -> None:
    gone = event(kind, lab="web", node=node, data={"to": "destroyed"})
    emptied = Outgoing(topic=f"labd/v1/00c0ffee/{topic}", payload=b"", retain=True)
    assert event_messages(TOPICS, gone, NOTHING)[1:] == [emptied]
    meanwhile = Snapshot(seq=9, labs=[], nodes=[])
    assert event_messages(TOPICS, gone, meanwhile)[1:] == [emptied]
    again = Snapshot(seq=9, labs=[LAB], nodes=[NODE])
    assert event_messages(TOPICS, gone, again)[1:] == []
    before = Snapshot(seq=6, labs=[LAB], nodes=[NODE])
    assert event_messages(TOPICS, gone, before)[1:] == [emptied]


def test_an_old_event_does_not_take_a_state_back() -> None:
    moved = event(EventType.NODE_RUNNING, lab="web", node="a", data={"to": "running"})
    assert len(event_messages(TOPICS, moved, Snapshot(seq=7, labs=[LAB], nodes=[NODE]))) == 1


def test_a_snapshot_has_every_lab_and_node() -> None:
    lab, node = snapshot_messages(TOPICS, Snapshot(seq=9, labs=[LAB], nodes=[NODE]))
    assert lab.topic == "labd/v1/00c0ffee/lab/web/state"
    assert lab.retain
    assert parsed(lab)["data"] == {"state": "running", "reason": ""}
    assert node.topic == "labd/v1/00c0ffee/lab/web/node/a/state"
    assert parsed(node)["seq"] == 9
    assert parsed(node)["time"] == NODE.since
    assert parsed(node)["data"] == {"state": "ready", "reason": "so"}


def test_status_ids_differ_between_connections() -> None:
    one = status_message(TOPICS, "s1", state="online")
    two = status_message(TOPICS, "s2", state="online")
    assert one.topic == two.topic == "labd/v1/00c0ffee/status"
    assert parsed(one)["type"] == "io.labd.daemon.snapshot"
    assert parsed(one)["id"] != parsed(two)["id"]


def test_every_event_type_is_in_the_contract(contract: str) -> None:
    missing = [kind for kind in EventType if f"`{kind}`" not in contract]
    assert missing == []


@pytest.mark.parametrize("states", [LabState, NodeState])
def test_every_state_is_in_the_contract(contract: str, states: type[LabState | NodeState]) -> None:
    missing = [str(state) for state in states if f"`{state}`" not in contract]
    assert missing == []


@pytest.fixture
def contract(request: pytest.FixtureRequest) -> str:
    """Return the text of the contract."""
    return (request.config.rootpath / "docs" / "events.md").read_text()
