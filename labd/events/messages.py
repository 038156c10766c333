"""Events and states as MQTT messages; pure. `docs/events.md` says what they look like."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labd.model.events import SPECVERSION, TYPE_PREFIX, Event, EventType
from labd.model.records import LabRecord, NodeRecord
from labd.model.states import LabState, NodeState

ROOT = "labd/v1"
# What a lab or node is when it is new, for these events have no `to`.
_BORN: dict[EventType, str] = {
    EventType.LAB_CREATED: LabState.STARTING,
    EventType.NODE_CREATED: NodeState.STOPPED,
}
_GONE = frozenset({EventType.LAB_DESTROYED, EventType.NODE_DESTROYED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to publish with QoS 1. An empty retained payload empties the topic."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one host."""

    host: str

    @property
    def all(self) -> str:
        """The filter for everything of this host."""
        return f"{ROOT}/{self.host}/#"

    @property
    def status(self) -> str:
        """Where `online` and `offline` stand."""
        return f"{ROOT}/{self.host}/status"

    def events(self, lab: str) -> str:
        """Where the events of a lab go; with an empty name, those without a lab."""
        return f"{ROOT}/{self.host}/lab/{lab}/events" if lab else f"{ROOT}/{self.host}/events"

    def state(self, lab: str, node: str = "") -> str:
        """Where the state of a lab or node stands."""
        part = f"lab/{lab}/node/{node}" if node else f"lab/{lab}"
        return f"{ROOT}/{self.host}/{part}/state"

    def lab(self, lab: str) -> str:
        """The filter for everything of one lab."""
        return f"{ROOT}/{self.host}/lab/{lab}/#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What there is, at the moment of event `seq` or after it."""

    seq: int
    labs: Sequence[LabRecord]
    nodes: Sequence[NodeRecord]

    def has(self, lab: str, node: str) -> bool:
        """True if a lab, or a node of it, is there."""
        if node:
            return any(n.lab == lab and n.name == node for n in self.nodes)
        return any(each.name == lab for each in self.labs)


def _encode(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _state_message(
    topics: Topics, lab: str, node: str, seq: int, time: str, data: dict[str, object]
) -> Outgoing:
    topic = topics.state(lab, node)
    record: dict[str, object] = {
        "specversion": SPECVERSION,
        "id": f"{topic.removeprefix(f'{ROOT}/{topics.host}/')}@{seq}",
        "source": f"/labd/{topics.host}",
        "type": f"{TYPE_PREFIX}{'node' if node else 'lab'}.snapshot",
        "subject": f"{lab}/{node}" if node else lab,
        "datacontenttype": "application/json",
        "seq": seq,
        "lab": lab,
    }
    if time:
        record["time"] = time
    if node:
        record["node"] = node
    record["data"] = data
    return Outgoing(topic=topic, payload=_encode(record), retain=True)


def event_messages(topics: Topics, event: Event, snapshot: Snapshot) -> list[Outgoing]:
    """Return the event's message, and what it does to a state topic, in this order.

    The states of events that `snapshot` takes into account were published with it; only what is no
    more has to be emptied, on a broker that remembers it from before.
    """
    draft = event.draft
    messages = [Outgoing(topic=topics.events(draft.lab), payload=_encode(event.cloudevent()))]
    lab, node = draft.lab, draft.node
    if not lab:
        return messages
    old = event.seq <= snapshot.seq
    if draft.type in _GONE:
        if not (old and snapshot.has(lab, node)):
            messages.append(Outgoing(topic=topics.state(lab, node), payload=b"", retain=True))
    elif not old:
        state = _BORN.get(draft.type) or _state_after(draft.type, draft.data.get("to"))
        if state:
            reason = draft.data.get("reason", "")
            data: dict[str, object] = {"state": state, "reason": reason}
            messages.append(_state_message(topics, lab, node, event.seq, event.time, data))
    return messages


def _state_after(kind: EventType, to: object) -> str:
    moves = kind is EventType.LAB_STATE or kind.startswith("node.")
    return to if moves and isinstance(to, str) else ""


def snapshot_messages(topics: Topics, snapshot: Snapshot) -> Iterable[Outgoing]:
    """Yield the state topics of everything that there is."""
    for lab in snapshot.labs:
        data: dict[str, object] = {"state": str(lab.state), "reason": lab.reason}
        yield _state_message(topics, lab.name, "", snapshot.seq, "", data)
    for node in snapshot.nodes:
        data = {"state": str(node.state), "reason": node.reason}
        yield _state_message(topics, node.lab, node.name, snapshot.seq, node.since, data)


def status_message(topics: Topics, session: str, **data: object) -> Outgoing:
    """Return a message for the status topic.

    Args:
        topics: Of the host.
        session: Unique to the connection, for the record's id.
        data: `state`, and `clean` when it is offline.
    """
    record = {
        "specversion": SPECVERSION,
        "id": f"status@{session}-{data['state']}",
        "source": f"/labd/{topics.host}",
        "type": f"{TYPE_PREFIX}daemon.snapshot",
        "datacontenttype": "application/json",
        "data": data,
    }
    return Outgoing(topic=topics.status, payload=_encode(record), retain=True)
