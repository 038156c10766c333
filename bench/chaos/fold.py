"""The state that follows from events alone: pure.

`docs/events.md` promises that there is no change without its event. So the fold of all events must
be what the API lists, and each event must go on where the one before it has left off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from labd.model.states import NODE_MOVES, NodeState

Event = Mapping[str, Any]

PREFIX: Final = "io.labd."
# Events of a set of names: the names that come, and that go.
_SETS: Final = {
    "image": ("image.added", "image.removed"),
    "profile": ("profile.added", "profile.removed"),
    "checkpoint": ("checkpoint.saved", "checkpoint.removed"),
    "plugin": ("plugin.enabled", "plugin.disabled"),
    "class": ("class.started", "class.destroyed"),
}
_ENDS: Final = {"operation.succeeded": "succeeded", "operation.failed": "failed"}


@dataclass(slots=True)
class State:
    """What there is.

    Attributes:
        labs: Name -> state.
        nodes: `LAB/NODE` -> state.
        operations: Id -> state.
        names: Kind -> the names of that kind; of plugins, those that are enabled.
    """

    labs: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    operations: dict[str, str] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _SETS})


def fold(events: Iterable[Event]) -> tuple[State, list[str]]:
    """Return the state after all events, and where one does not follow from those before it."""
    state, problems = State(), list[str]()
    for event in events:
        problems += [f"event {event['seq']} {problem}" for problem in step(state, event)]
    return state, problems


def step(state: State, event: Event) -> list[str]:
    """Take one event into account; return what is wrong with it."""
    kind = str(event["type"]).removeprefix(PREFIX)
    if kind.startswith("lab."):
        return _lab(state, kind, event)
    if kind.startswith("node."):
        return _node(state, kind, event)
    if kind.startswith("operation."):
        return _operation(state, kind, event)
    for name, (comes, goes) in _SETS.items():
        if kind == comes:
            state.names[name].add(str(event["subject"]))
        elif kind == goes:
            state.names[name].discard(str(event["subject"]))
    return []


def _lab(state: State, kind: str, event: Event) -> list[str]:
    name, data = str(event["lab"]), event["data"]
    if kind == "lab.created":
        there = name in state.labs
        state.labs[name] = str(data.get("to", "starting"))
        return [f"creates lab {name}, which is there"] if there else []
    if name not in state.labs:
        return [f"({kind}) is about lab {name}, which is not there"]
    problems = _from(f"lab {name}", state.labs[name], event)
    if kind == "lab.destroyed":
        del state.labs[name]
        for node in [node for node in state.nodes if node.partition("/")[0] == name]:
            problems.append(f"destroys lab {name} before its node {node}")
            del state.nodes[node]
    elif "to" in data:
        state.labs[name] = str(data["to"])
    return problems


def _node(state: State, kind: str, event: Event) -> list[str]:
    name, data = f"{event['lab']}/{event['node']}", event["data"]
    if kind == "node.created":
        there = name in state.nodes
        state.nodes[name] = NodeState.STOPPED
        return [f"creates node {name}, which is there"] if there else []
    if name not in state.nodes:
        return [f"({kind}) is about node {name}, which is not there"]
    problems = _from(f"node {name}", state.nodes[name], event)
    if kind == "node.destroyed":
        del state.nodes[name]
    elif "to" in data:
        known = NodeState(state.nodes[name])
        if NodeState(data["to"]) not in NODE_MOVES[known]:
            problems.append(f"moves {name} from {known} to {data['to']}, which is no move")
        state.nodes[name] = str(data["to"])
    return problems


def _operation(state: State, kind: str, event: Event) -> list[str]:
    key = str(event["operation"])
    known = state.operations.get(key)
    if kind == "operation.started":
        state.operations[key] = "running"
        return [f"starts operation {key} twice"] if known else []
    if known != "running":
        return [f"({kind}) is about operation {key}, which is {known or 'unknown'}"]
    state.operations[key] = _ENDS.get(kind, known)
    return []


def _from(subject: str, known: str, event: Event) -> list[str]:
    said = event["data"].get("from")
    return [] if said in {None, known} else [f"moves {subject} from {said}, and it is {known}"]
