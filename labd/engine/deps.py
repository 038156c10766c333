"""Order of start: what each node waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labd.model.specs import DependsOn, NodeSpec
from labd.model.states import NodeState

_REACHED = {
    DependsOn.RUNNING: frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED}),
    DependsOn.READY: frozenset({NodeState.READY, NodeState.PAUSED}),
}
_FAILED = frozenset({NodeState.CRASHED, NodeState.PANICKED, NodeState.DESTROYED})


def blockers(node: NodeSpec, states: Mapping[str, NodeState]) -> tuple[str, ...]:
    """Return the names of the nodes that this one still waits for."""
    return tuple(
        need.node
        for need in node.depends_on
        if states.get(need.node) not in _REACHED[need.condition]
    )


def hopeless(node: NodeSpec, states: Mapping[str, NodeState]) -> tuple[str, ...]:
    """Return the names of those that it waits for in vain, for they failed."""
    return tuple(name for name in blockers(node, states) if states.get(name) in _FAILED)


def closure(wanted: Iterable[str], nodes: Mapping[str, NodeSpec]) -> set[str]:
    """Return the wanted nodes with everything that they depend on."""
    todo, found = list(wanted), set[str]()
    while todo:
        name = todo.pop()
        if name in found or name not in nodes:
            continue
        found.add(name)
        todo.extend(need.node for need in nodes[name].depends_on)
    return found
