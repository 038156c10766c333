"""The pure parts of the engine: what would change, who waits for whom, who fits, how a lab is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from labd.core.admission import admit
from labd.core.deps import blockers, closure, hopeless
from labd.core.state_writer import derive_lab_state
from labd.features.labs.diff import plan_changes
from labd.features.labs.hotplug import needs_replacing
from labd.model.errors import IllegalTransition, NoRoom
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import (
    Dependency,
    DependsOn,
    LabSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    Readiness,
    RestartMode,
    RestartPolicy,
)
from labd.model.states import NODE_MOVES, LabState, NodeState, require_move
from labd.model.units import GIB, MIB


def spec(*nodes: NodeSpec, networks: tuple[NetworkSpec, ...] = ()) -> LabSpec:
    return LabSpec(template="t", nodes=nodes, networks=networks)


def changes(old: LabSpec | None, new: LabSpec, running: set[str]) -> list[tuple[str, str, str]]:
    return [(c.action, f"{c.kind} {c.name}", c.why) for c in plan_changes(old, new, running)]


A = NodeSpec(name="a", image="tiny", memory=128 * MIB)
B = NodeSpec(name="b", image="tiny")
LAN = NetworkSpec(name="lan")


def test_a_new_lab_creates_everything_in_order() -> None:
    assert changes(None, spec(A, B, networks=(LAN,)), set()) == [
        ("create", "lab t", ""),
        ("create", "network lan", ""),
        ("create", "node a", ""),
        ("create", "node b", ""),
    ]


def test_nothing_differs() -> None:
    assert changes(spec(A), spec(A), {"a"}) == []


def test_a_stopped_node_is_started() -> None:
    assert changes(spec(A, B), spec(A, B), {"a"}) == [("start", "node b", "")]


def test_a_hard_field_replaces_and_says_why() -> None:
    bigger = replace(A, memory=1 * GIB, disk=None)
    assert changes(spec(A), spec(bigger), {"a"}) == [
        ("replace", "node a", "memory: 128 MiB -> 1 GiB")
    ]


def test_a_soft_field_does_not_replace() -> None:
    patient = replace(
        A, ready=Readiness(timeout=10), restart=RestartPolicy(mode=RestartMode.ALWAYS)
    )
    assert not needs_replacing(A, patient)
    assert changes(spec(A), spec(patient), {"a"}) == [
        ("update", "node a", "restart.mode: no -> always; ready.timeout: 180.0 -> 10")
    ]


def test_what_is_left_out_is_removed_first() -> None:
    old = spec(A, B, networks=(LAN,))
    assert changes(old, spec(A), {"a", "b"}) == [
        ("remove", "node b", ""),
        ("remove", "network lan", ""),
    ]


def test_a_nic_that_moves_replaces_its_node() -> None:
    nic = NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01")
    moved = replace(nic, network="wan")
    (only,) = plan_changes(spec(replace(A, nics=(nic,))), spec(replace(A, nics=(moved,))), {"a"})
    assert only.action == "replace"
    assert "lan" in only.why
    assert "wan" in only.why


NEEDY = NodeSpec(
    name="c",
    depends_on=(
        Dependency(node="a", condition=DependsOn.RUNNING),
        Dependency(node="b", condition=DependsOn.READY),
    ),
)


def test_blockers_follow_the_condition() -> None:
    states = {"a": NodeState.RUNNING, "b": NodeState.RUNNING}
    assert blockers(NEEDY, states) == ("b",)
    assert blockers(NEEDY, {**states, "b": NodeState.READY}) == ()
    assert blockers(NEEDY, {}) == ("a", "b")


def test_a_crashed_dependency_is_hopeless() -> None:
    states = {"a": NodeState.CRASHED, "b": NodeState.STARTING}
    assert hopeless(NEEDY, states) == ("a",)


def test_closure_brings_dependencies_and_bears_cycles() -> None:
    loop = NodeSpec(name="a", depends_on=(Dependency(node="c", condition=DependsOn.READY),))
    assert closure(["c"], {"a": loop, "b": B, "c": NEEDY}) == {"a", "b", "c"}


def test_admission_tells_the_numbers() -> None:
    admit("x", [GIB], available=2 * GIB, reserve=512 * MIB, overhead=32 * MIB)
    with pytest.raises(
        NoRoom,
        match=re.escape(
            "lab x does not fit: its 2 nodes need 2.1 GiB, and the host has 1.2 GiB free (2 GiB "
            "available, 512 MiB reserved, 256 MiB promised to labs that are starting); stop a lab, "
            "or give the nodes less memory"
        ),
    ):
        admit(
            "x",
            [GIB, GIB],
            available=2 * GIB,
            reserve=512 * MIB,
            overhead=32 * MIB,
            promised=256 * MIB,
        )


def lab(state: LabState, wanted: Wanted = Wanted.RUNNING) -> LabRecord:
    return LabRecord(name="l", key="k", spec=spec(), wanted=wanted, state=state)


def nodes(*states: NodeState, wanted: Wanted = Wanted.RUNNING) -> list[NodeRecord]:
    return [
        NodeRecord(lab="l", name=f"n{i}", key=f"k{i}", uuid="u", uid=i, wanted=wanted, state=state)
        for i, state in enumerate(states)
    ]


S = NodeState


@pytest.mark.parametrize(
    ("before", "wanted", "states", "node_wanted", "after"),
    [
        (LabState.STARTING, "running", (S.READY, S.RUNNING), "running", LabState.STARTING),
        (LabState.STARTING, "running", (S.READY, S.STOPPED), "running", LabState.STARTING),
        (LabState.STARTING, "running", (S.READY, S.READY), "running", LabState.RUNNING),
        (LabState.STARTING, "running", (S.READY, S.CRASHED), "running", LabState.DEGRADED),
        (LabState.RUNNING, "running", (S.READY, S.PAUSED), "running", LabState.RUNNING),
        (LabState.RUNNING, "running", (S.READY, S.CRASHED), "running", LabState.DEGRADED),
        (LabState.RUNNING, "running", (S.READY, S.STOPPED), "running", LabState.DEGRADED),
        (LabState.DEGRADED, "running", (S.READY, S.STARTING), "running", LabState.DEGRADED),
        (LabState.DEGRADED, "running", (S.READY, S.READY), "running", LabState.RUNNING),
        (LabState.FAILED, "running", (S.READY, S.RUNNING), "running", LabState.FAILED),
        (LabState.FAILED, "running", (S.READY, S.READY), "running", LabState.RUNNING),
        (LabState.RUNNING, "running", (S.STOPPED, S.STOPPED), "stopped", LabState.STOPPED),
        (LabState.RUNNING, "stopped", (S.STOPPING, S.STOPPED), "stopped", LabState.STOPPING),
        (LabState.STOPPING, "stopped", (S.STOPPED, S.CRASHED), "stopped", LabState.STOPPED),
        (LabState.RUNNING, "destroyed", (S.READY,), "destroyed", LabState.DESTROYING),
    ],
)
def test_how_a_lab_is_follows_from_its_nodes(
    before: LabState,
    wanted: str,
    states: tuple[NodeState, ...],
    node_wanted: str,
    after: LabState,
) -> None:
    got = derive_lab_state(lab(before, Wanted(wanted)), nodes(*states, wanted=Wanted(node_wanted)))
    assert got is after


def test_every_state_has_its_moves_and_each_move_leads_somewhere() -> None:
    assert set(NODE_MOVES) == set(NodeState)
    reached = {to for moves in NODE_MOVES.values() for to in moves}
    assert reached == set(NodeState)


def test_an_illegal_move_names_the_actual_and_the_required_states() -> None:
    with pytest.raises(
        IllegalTransition,
        match=re.escape(
            "cannot move to starting web/a: it is ready, and must be crashed or stopped"
        ),
    ):
        require_move("web/a", NodeState.READY, NodeState.STARTING)
