"""The one writer of states: every move is checked, and is one transaction with its event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypedDict, Unpack
from weakref import WeakValueDictionary

from labd.inventory.port import Inventory, Transaction
from labd.model.errors import NotFound
from labd.model.events import EventDraft, EventType
from labd.model.machine import MachineSpec
from labd.model.names import NodeRef, did_you_mean
from labd.model.process import ProcessId
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.states import LabState, NodeState, require_move

log = logging.getLogger(__name__)

_FAILED = {NodeState.CRASHED, NodeState.PANICKED, NodeState.UNRESPONSIVE, NodeState.STOPPED}
_GOOD = {NodeState.READY, NodeState.PAUSED}

_EVENT_OF = {
    NodeState.STARTING: EventType.NODE_STARTING,
    NodeState.RUNNING: EventType.NODE_RUNNING,
    NodeState.READY: EventType.NODE_READY,
    NodeState.PAUSED: EventType.NODE_PAUSED,
    NodeState.UNRESPONSIVE: EventType.NODE_UNRESPONSIVE,
    NodeState.STOPPING: EventType.NODE_STOPPING,
    NodeState.STOPPED: EventType.NODE_STOPPED,
    NodeState.CRASHED: EventType.NODE_CRASHED,
    NodeState.PANICKED: EventType.NODE_PANICKED,
}


def derive_lab_state(lab: LabRecord, nodes: Iterable[NodeRecord]) -> LabState:
    """Return the state of a lab from its intent and its nodes; pure.

    A lab that is starting stays so until every node is good or one has failed; a lab whose `up`
    failed stays failed until every node is good.
    """
    nodes = list(nodes)
    if lab.wanted is Wanted.DESTROYED:
        return LabState.DESTROYING
    due = [node.state for node in nodes if node.wanted is Wanted.RUNNING]
    if lab.wanted is Wanted.STOPPED or (nodes and not due):
        still = all(node.state in {NodeState.STOPPED, NodeState.CRASHED} for node in nodes)
        return LabState.STOPPED if still else LabState.STOPPING
    if all(state in _GOOD for state in due):
        return LabState.RUNNING
    if lab.state is LabState.FAILED:
        return LabState.FAILED
    failed = _FAILED - {NodeState.STOPPED} if lab.state is LabState.STARTING else _FAILED
    if lab.state is LabState.STARTING and not any(state in failed for state in due):
        return LabState.STARTING
    return LabState.DEGRADED


class NodeChanges(TypedDict, total=False):
    """Fields of a node that may change together with its state."""

    wanted: Wanted
    process: ProcessId | None
    machine: MachineSpec | None
    starts: int


class NodeUpdate(NodeChanges, total=False):
    """Fields of a node that may change without its state."""

    reason: str


class StateWriter:
    """Writes states and events, and wakes who waits for them.

    A change wakes those who wait for its lab, and those who wait for any; nobody of another lab.
    """

    def __init__(self, inventory: Inventory, clock: Callable[[], str]) -> None:
        self._inventory = inventory
        self._clock = clock
        # By lab; an event goes with the last who waits for it.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._any = asyncio.Event()

    async def node(self, ref: NodeRef) -> NodeRecord:
        """Return a node.

        Raises:
            NotFound: There is none.
        """
        node = await self._inventory.node(ref.lab, ref.node)
        if node is None:
            await self.lab(ref.lab)
            names = [other.name for other in await self._inventory.nodes(ref.lab)]
            raise NotFound(f"there is no node {ref}{did_you_mean(ref.node, names)}")
        return node

    async def lab(self, name: str) -> LabRecord:
        """Return a lab.

        Raises:
            NotFound: There is none.
        """
        lab = await self._inventory.lab(name)
        if lab is None:
            names = [other.name for other in await self._inventory.labs()]
            raise NotFound(f"there is no lab {name}{did_you_mean(name, names)}")
        return lab

    async def move(
        self,
        ref: NodeRef,
        to: NodeState,
        *,
        reason: str = "",
        operation: str = "",
        event: EventType | None = None,
        data: Mapping[str, object] | None = None,
        unless: Iterable[NodeState] = (),
        also: Iterable[NodeState] = (),
        then: Callable[[], object] | None = None,
        **changes: Unpack[NodeChanges],
    ) -> NodeRecord | None:
        """Move a node to a state, tell it, and derive the lab's state, in one transaction.

        Args:
            ref: The node.
            to: The new state; when the node is in it already, nothing happens.
            reason: One sentence for people.
            operation: Id of the operation that caused it.
            event: Instead of the state's own event.
            data: Facts for the event, besides `from`, `to` and `reason`.
            unless: States in which the move is not due any more; nothing happens then.
            also: Further states reached in the same transaction, each with its own event.
            then: Called when the move is committed; see `Transaction.on_commit`.
            changes: Other fields of the record.

        Returns:
            The record as it is now, None when the node is no more.

        Raises:
            IllegalTransition: The table forbids it.
        """
        moved: list[NodeState] = []
        async with self._waking(ref.lab) as tx:
            node = await self._inventory.node(ref.lab, ref.node)
            if node is None:
                return None
            if node.state in set(unless):
                return node
            for state in (to, *also):
                if node.state is state:
                    continue
                moved.append(state)
                node = await self._step(
                    tx, ref, node, state, reason, operation, event, data or {}, changes
                )
                event = None
            await self.derive(tx, ref.lab, operation)
            if then is not None:
                tx.on_commit(then)
        for state in moved:
            log.info("node %s is %s%s", ref, state, f": {reason}" if reason else "")
        return node

    async def move_all(
        self,
        lab: str,
        names: Iterable[str],
        to: NodeState,
        *,
        operation: str = "",
        unless: Iterable[NodeState] = (),
        data: Mapping[str, object] | None = None,
        **changes: Unpack[NodeChanges],
    ) -> None:
        """Move nodes of one lab to a state, each with its own event, in one transaction.

        Args:
            lab: Name of the lab.
            names: Of the nodes, in the order of their events; those that are no more are left out.
            to: The new state; nodes that are in it already are left out.
            operation: Id of the operation that caused it.
            unless: States in which the move of a node is not due any more.
            data: Facts for each event, besides `from` and `to`.
            changes: Other fields of the records.

        Raises:
            IllegalTransition: The table forbids one of the moves; nothing was written.
        """
        kept = {to, *unless}
        moved: list[NodeRef] = []
        async with self._waking(lab) as tx:
            for name in names:
                node = await self._inventory.node(lab, name)
                if node is None or node.state in kept:
                    continue
                ref = NodeRef(lab, name)
                await self._step(tx, ref, node, to, "", operation, None, data or {}, changes)
                moved.append(ref)
            await self.derive(tx, lab, operation)
        for ref in moved:
            log.info("node %s is %s", ref, to)

    async def move_new(
        self,
        tx: Transaction,
        node: NodeRecord,
        to: NodeState,
        operation: str,
        **changes: Unpack[NodeChanges],
    ) -> None:
        """Move a node that a transaction of the caller's has just made; nobody waits for it yet."""
        ref = NodeRef(node.lab, node.name)
        await self._step(tx, ref, node, to, "", operation, None, {}, changes)

    async def _step(
        self,
        tx: Transaction,
        ref: NodeRef,
        node: NodeRecord,
        to: NodeState,
        reason: str,
        operation: str,
        event: EventType | None,
        data: Mapping[str, object],
        changes: NodeChanges,
    ) -> NodeRecord:
        require_move(str(ref), node.state, to)
        facts: dict[str, object] = {"from": str(node.state), "to": str(to)}
        if reason:
            facts["reason"] = reason
        node = replace(node, state=to, reason=reason, since=self._clock(), **changes)
        await tx.put_node(node)
        await tx.emit(
            EventDraft(
                type=event or _EVENT_OF[to],
                lab=ref.lab,
                node=ref.node,
                operation=operation,
                data={**facts, **data},
            )
        )
        return node

    async def derive(
        self, tx: Transaction, name: str, operation: str, *, over: bool = False
    ) -> None:
        """Write a lab's state as it follows from the rows of a transaction of the caller.

        With `over`, a lab that is starting does not stay so: nothing starts any more.
        """
        lab = await self._inventory.lab(name)
        if lab is None:
            return
        seen = lab
        if over and lab.state is LabState.STARTING:
            seen = replace(lab, state=LabState.RUNNING)
        state = derive_lab_state(seen, await self._inventory.nodes(name))
        if state is not lab.state:
            await self.put_lab_state(tx, lab, state, operation)

    async def put_lab_state(
        self, tx: Transaction, lab: LabRecord, state: LabState, operation: str, reason: str = ""
    ) -> LabRecord:
        """Write a lab's state and its event inside a transaction of the caller."""
        data = {"from": str(lab.state), "to": str(state)}
        if reason:
            data["reason"] = reason
        lab = replace(lab, state=state, reason=reason)
        await tx.put_lab(lab)
        await tx.emit(
            EventDraft(type=EventType.LAB_STATE, lab=lab.name, operation=operation, data=data)
        )
        return lab

    async def forget_previous(self, name: str) -> None:
        """Write that a change of a lab's spec is finished."""
        async with self._inventory.transaction() as tx:
            await tx.put_lab(replace(await self.lab(name), previous=None))

    async def settle(self, name: str, operation: str = "") -> None:
        """Derive the state of a lab afresh, at the end of what was done to it."""
        async with self._waking(name) as tx:
            await self.derive(tx, name, operation, over=True)

    async def update(
        self, ref: NodeRef, *, unless: Iterable[NodeState] = (), **changes: Unpack[NodeUpdate]
    ) -> NodeRecord | None:
        """Change fields of a node that are no state, without an event; not in states `unless`."""
        async with self._inventory.transaction() as tx:
            node = await self._inventory.node(ref.lab, ref.node)
            if node is None:
                return None
            if node.state in set(unless):
                return node
            node = replace(node, **changes)
            await tx.put_node(node)
        return node

    async def note_machine(
        self, ref: NodeRef, machine: MachineSpec, draft: EventDraft
    ) -> NodeRecord | None:
        """Write what devices a machine has now, with the event that tells of it."""
        async with self._waking(ref.lab) as tx:
            node = await self._inventory.node(ref.lab, ref.node)
            if node is None:
                return None
            node = replace(node, machine=machine)
            await tx.put_node(node)
            await tx.emit(draft)
        return node

    async def emit(self, draft: EventDraft) -> None:
        """Emit an event that changes no row."""
        async with self._waking(draft.lab) as tx:
            await tx.emit(draft)

    @asynccontextmanager
    async def _waking(self, lab: str) -> AsyncIterator[Transaction]:
        """Begin a transaction after which everybody who waits for a lab looks again.

        Also when the task is cancelled as it commits: the change stands.
        """
        try:
            async with self._inventory.transaction() as tx:
                yield tx
        finally:
            self.wake(lab)

    def wake(self, lab: str) -> None:
        """Let everybody look again who waits for a lab, or for any.

        Args:
            lab: Its name; empty for a change that concerns no lab.
        """
        changed = self._changed.pop(lab, None)
        if changed is not None:
            changed.set()
        self._any.set()
        self._any = asyncio.Event()

    def changed(self, lab: str) -> asyncio.Event:
        """Return the event that is set by the next change of a lab or of one of its nodes."""
        return self._changed.setdefault(lab, asyncio.Event())

    def anything_changed(self) -> asyncio.Event:
        """Return the event that is set by the next change of any lab."""
        return self._any

    async def wait_node(self, ref: NodeRef, states: Iterable[NodeState]) -> NodeRecord | None:
        """Return the node as soon as it is in one of `states`, None when it is no more."""
        states = set(states)
        while True:
            changed = self.changed(ref.lab)
            node = await self._inventory.node(ref.lab, ref.node)
            if node is None or node.state in states:
                return node
            await changed.wait()
