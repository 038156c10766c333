"""Pauses whole labs that the host cannot bear, and tells why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.core.state_writer import StateWriter
from labd.features.labs import Watcher
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationKind, by_lab
from labd.model.states import NodeState

log = logging.getLogger(__name__)

_K = OperationKind
# What may hold a lab while it is paused. Others are on their way to an end, or would break.
_BEARS = frozenset({_K.UP, _K.START, _K.RESTART, _K.EDIT})
_RUNS = frozenset({NodeState.RUNNING, NodeState.READY})
_SEEN_WITHIN = 5.0  # seconds for the watcher to hear what QEMU was told


class Pauser:
    """Pauses labs past their operations: one that is starting now may be the one that matters."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        watcher: Watcher,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._watcher = watcher

    async def running(self) -> Sequence[tuple[LabRecord, Sequence[NodeRecord]]]:
        """Return the labs of which nodes run, the newest first, each with those nodes."""
        gather_all = await self._adapters.inventory.nodes()
        nodes = by_lab(node for node in gather_all if node.state in _RUNS)
        labs = [lab for lab in await self._adapters.inventory.labs() if lab.name in nodes]
        labs.sort(key=lambda lab: (lab.created, lab.name), reverse=True)
        return [(lab, nodes[lab.name]) for lab in labs]

    def bears(self, lab: str) -> bool:
        """True if a lab can be paused now."""
        holder = self._operations.holder(lab)
        return holder is None or holder.kind in _BEARS

    async def pause(
        self,
        lab: str,
        nodes: Sequence[NodeRecord],
        cause: str,
        why: str,
        data: Mapping[str, object],
    ) -> bool:
        """Pause nodes of a lab together; tell whether one of them stands still now.

        Args:
            lab: Its name.
            nodes: Those that run.
            cause: For programs, in the event.
            why: One sentence for people, at each node.
            data: Facts for the event.
        """
        with ExitStack() as stack:
            for node in nodes:
                stack.enter_context(self._watcher.because(node.key, why))
            outcomes = await asyncio.gather(
                *(self._one(node) for node in nodes), return_exceptions=True
            )
        for node, outcome in zip(nodes, outcomes, strict=True):
            if isinstance(outcome, LabdError | TimeoutError):
                log.warning("node %s/%s cannot be paused: %s", lab, node.name, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        paused = [node.name for node, done in zip(nodes, outcomes, strict=True) if done is True]
        if paused:
            log.warning("lab %s is paused: %s", lab, why)
            await self._state_writer.emit(
                EventDraft(
                    type=EventType.LAB_PAUSED,
                    lab=lab,
                    data={"cause": cause, "reason": why, "nodes": paused, **data},
                )
            )
        return bool(paused)

    async def _one(self, node: NodeRecord) -> bool:
        ref = NodeRef(node.lab, node.name)
        await self._adapters.nodes.pause(node.key)
        async with asyncio.timeout(_SEEN_WITHIN):
            seen = await self._state_writer.wait_node(ref, set(NodeState) - _RUNS)
        return seen is not None and seen.state is NodeState.PAUSED
