"""States, and the one table of moves between them.

The writer of a state calls `require_move` first; an illegal move raises `IllegalTransition` with
the actual and the required states. Nothing else in labd decides which move is legal.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from labd.model.errors import IllegalTransition


class LabState(StrEnum):
    """What a lab is doing. It is derived from intent and nodes by the engine, never set by hand."""

    STARTING = "starting"
    RUNNING = "running"  # every node that should run is ready
    DEGRADED = "degraded"  # at least one node that should run does not
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # `up` failed and `--keep` was given
    DESTROYING = "destroying"
    DESTROYED = "destroyed"  # only ever seen in events


class NodeState(StrEnum):
    """What a node is doing, as the kernel and QMP say."""

    STOPPED = "stopped"  # no process; disks are kept
    STARTING = "starting"  # being built, or QEMU is there but was not let go yet
    RUNNING = "running"  # its CPUs run; its guest has not said that it is ready
    READY = "ready"
    PAUSED = "paused"
    UNRESPONSIVE = "unresponsive"  # the process lives; QMP misses its deadlines
    STOPPING = "stopping"  # the guest was asked to power off
    CRASHED = "crashed"  # QEMU ended, or the guest powered off, and nobody had asked
    PANICKED = "panicked"  # the guest reported a kernel panic; QEMU holds it still
    DESTROYED = "destroyed"  # only ever seen in events


class OperationState(StrEnum):
    """Life of one accepted request."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class NetworkState(StrEnum):
    """Whether a network's bridge is there."""

    DOWN = "down"
    UP = "up"


class PluginState(StrEnum):
    """Life of a plugin's process."""

    DISABLED = "disabled"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"  # it crashed, and waits to be started again


_N = NodeState
_ALIVE = {_N.STOPPING, _N.STOPPED, _N.CRASHED, _N.PANICKED, _N.UNRESPONSIVE}

NODE_MOVES: Mapping[NodeState, frozenset[NodeState]] = MappingProxyType(
    {
        _N.STOPPED: frozenset({_N.STARTING, _N.DESTROYED}),
        _N.STARTING: frozenset({_N.RUNNING, _N.READY, _N.PAUSED, *_ALIVE}),
        _N.RUNNING: frozenset({_N.READY, _N.PAUSED, *_ALIVE}),
        _N.READY: frozenset({_N.RUNNING, _N.PAUSED, *_ALIVE}),
        _N.PAUSED: frozenset({_N.RUNNING, _N.READY, *_ALIVE}),
        _N.UNRESPONSIVE: frozenset({_N.RUNNING, _N.READY, _N.PAUSED, *_ALIVE} - {_N.UNRESPONSIVE}),
        _N.STOPPING: frozenset({_N.STOPPED, _N.CRASHED}),
        _N.CRASHED: frozenset({_N.STARTING, _N.STOPPED, _N.DESTROYED}),
        _N.PANICKED: frozenset({_N.RUNNING, _N.PAUSED, _N.STOPPING, _N.STOPPED, _N.CRASHED}),
        _N.DESTROYED: frozenset(),
    }
)

# States in which a QEMU process is expected to live.
NODE_ALIVE = frozenset(
    {
        _N.STARTING,
        _N.RUNNING,
        _N.READY,
        _N.PAUSED,
        _N.UNRESPONSIVE,
        _N.STOPPING,
        _N.PANICKED,
    }
)
# From which a checkpoint can be saved.
NODE_SAVEABLE = frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED})


def require_move(subject: str, actual: NodeState, to: NodeState) -> None:
    """Raise IllegalTransition unless the node `subject` may move from `actual` to `to`.

    Raises:
        IllegalTransition: It may not; the states from which it could are told.
    """
    if to in NODE_MOVES[actual]:
        return
    required = sorted(str(state) for state, moves in NODE_MOVES.items() if to in moves)
    raise IllegalTransition(subject, str(actual), required, f"move to {to}")
