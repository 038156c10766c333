"""Order of start: what each node waits for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from labd.model.specs import DependsOn, NodeSpec
from labd.model.states import NodeState

_REACHED = {
    DependsOn.RUNNING: frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED}),
    DependsOn.READY: frozenset({NodeState.READY, NodeState.PAUSED}),
}
# Somebody waits already for what becomes of these.
_COMING = frozenset({NodeState.STARTING, NodeState.RUNNING})


def blockers(node: NodeSpec, states: Mapping[str, NodeState]) -> tuple[str, ...]:
    """Return the names of the nodes that this one still waits for."""
    return tuple(
        need.node
        for need in node.depends_on
        if states.get(need.node) not in _REACHED[need.condition]
    )


def hopeless(
    node: NodeSpec, states: Mapping[str, NodeState], starting: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of those that it waits for in vain.

    Args:
        node: The one that waits.
        states: As they are now.
        starting: Names of the nodes whose start is not finished; it is not known yet how they end,
            whatever state they are in.
    """
    return tuple(
        name
        for name in blockers(node, states)
        if name not in starting and states.get(name) not in _COMING
    )


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
