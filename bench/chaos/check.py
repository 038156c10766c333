"""What must be true of a history: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.chaos.fold import PREFIX, Event, State, fold

_OWNED = {"starting", "stopping"}  # an operation has such a node in its hands


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was heard and done.

    Attributes:
        replay: All events by the replay endpoint, at the end.
        heard: What each connection of an MQTT subscriber heard, in the order of arrival.
        listed: What the API lists at the end.
        kills: `LAB/NODE` of each QEMU that the nemesis has killed.
    """

    replay: Sequence[dict[str, Any]]
    heard: Sequence[Sequence[Event]] = ()
    listed: State = field(default_factory=State)
    kills: Sequence[str] = ()


def check(history: History) -> list[str]:
    """Return everything that is wrong."""
    state, problems = fold(history.replay)
    return [
        *gaps(history.replay),
        *problems,
        *unheard(history.heard, history.replay),
        *differences(state, history.listed),
        *lost(history.replay, history.kills),
        *faults(history.replay),
    ]


def gaps(replay: Sequence[Event]) -> list[str]:
    """Return where numbers are missing or out of order."""
    seqs = [int(event["seq"]) for event in replay]
    if not seqs:
        return ["there is no event at all"]
    wrong = [] if seqs[0] == 1 else [f"the first event is {seqs[0]}"]
    return wrong + [f"event {b} comes after event {a}" for a, b in pairwise(seqs) if b != a + 1]


def unheard(heard: Sequence[Sequence[Event]], replay: Sequence[Event]) -> list[str]:
    """Return where a subscriber heard something else than what there is.

    On one connection events come in order and without a gap; they may begin again further back,
    when labd has lost its own connection (docs/events.md, "at least once").
    """
    known = {int(event["seq"]): event for event in replay}
    problems = []
    for number, events in enumerate(heard):
        for event in events:
            seq = int(event["seq"])
            if known.get(seq) != event:
                problems.append(f"connection {number} heard another event {seq} than there is")
        seqs = [int(event["seq"]) for event in events]
        problems += [
            f"connection {number} heard event {b} after event {a}"
            for a, b in pairwise(seqs)
            if b > a + 1
        ]
    return problems


def differences(state: State, listed: State) -> list[str]:
    """Return where the fold of all events is not what the API lists."""
    problems = []
    for what, ours, theirs in (
        ("lab", state.labs, listed.labs),
        ("node", state.nodes, listed.nodes),
    ):
        problems += [
            f"{what} {name} is {theirs.get(name, 'not there')}, and by its events "
            f"{ours.get(name, 'not there')}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
    # The API keeps the newest operations only.
    problems += [
        f"operation {key} is {found}, and by its events {state.operations.get(key, 'unknown')}"
        for key, found in listed.operations.items()
        if state.operations.get(key) != found
    ]
    problems += [
        f"operation {key} has not ended"
        for key, is_ in state.operations.items()
        if is_ == "running"
    ]
    for kind, names in state.names.items():
        theirs_too = listed.names[kind]
        problems += [f"{kind} {name}: no event tells of it" for name in sorted(theirs_too - names)]
        problems += [f"{kind} {name}: the API has lost it" for name in sorted(names - theirs_too)]
    return problems


def lost(replay: Iterable[Event], kills: Iterable[str]) -> list[str]:
    """Return nodes whose QEMU ended and that nobody has killed, stopped or taken down."""
    killed = Counter(kills)
    ended: Counter[str] = Counter()
    for event in replay:
        kind, data = str(event["type"]).removeprefix(PREFIX), event["data"]
        if kind == "node.crashed" or (kind == "node.stopped" and _unexplained(event, data)):
            ended[f"{event['lab']}/{event['node']}"] += 1
    return [
        f"node {name} ended {count} times on its own account, and was killed {killed[name]} times"
        for name, count in sorted(ended.items())
        if count > killed[name]
    ]


def _unexplained(event: Event, data: Mapping[str, Any]) -> bool:
    owned = data.get("from") in _OWNED
    return not (event.get("operation") or owned or data.get("cause") == "guest-poweroff")


def faults(replay: Iterable[Event]) -> list[str]:
    """Return operations that ended by a fault of labd itself."""
    return [
        f"operation {event['operation']} failed by a fault: {error.get('message')}"
        for event in replay
        if str(event["type"]) == f"{PREFIX}operation.failed"
        and (error := event["data"].get("error") or {}).get("code") in {"internal", "fault"}
    ]
