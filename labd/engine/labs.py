"""Requests that change labs: each checks, writes its intent, and starts an operation."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from labd.engine.admission import admit
from labd.engine.converge import Converger
from labd.engine.deps import closure
from labd.engine.diff import plan_changes
from labd.engine.facade import Change
from labd.engine.journal import Journal
from labd.engine.operations import Operations
from labd.engine.ports import Transaction
from labd.engine.resolve import Sized
from labd.engine.watch import Watcher
from labd.engine.world import NODE_UIDS, World, new_key
from labd.model.errors import (
    Conflict,
    GuestFailed,
    IllegalTransition,
    LabdError,
    NoRoom,
    NotFound,
)
from labd.model.events import EventType, Happening
from labd.model.names import NodeRef, check_name, did_you_mean
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord, Wanted
from labd.model.specs import Accel, LabSpec
from labd.model.states import NODE_ALIVE, LabState, NodeState

log = logging.getLogger(__name__)

_K = OperationKind
_WHOLE = {_K.DOWN, _K.DESTROY}
# States from which a node can do what is asked; the others are left alone or refused.
_FROM: Mapping[OperationKind, frozenset[NodeState]] = {
    _K.PAUSE: frozenset({NodeState.RUNNING, NodeState.READY}),
    _K.RESUME: frozenset({NodeState.PAUSED}),
    _K.RESET: frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED, NodeState.PANICKED}),
}


class Labs:
    """The requests `up`, `plan` and the actions; and how to go on with them after a crash."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        operations: Operations,
        converger: Converger,
        watcher: Watcher,
    ) -> None:
        self._world = world
        self._journal = journal
        self._operations = operations
        self._converger = converger
        self._watcher = watcher
        self._admitting = asyncio.Lock()

    # up

    async def plan(self, name: str, spec: LabSpec) -> Sequence[Change]:
        """Tell what `up` would do."""
        check_name(name, "lab")
        await self._check(name, spec)
        lab = await self._world.inventory.lab(name)
        nodes = await self._world.inventory.nodes(name)
        running = {node.name for node in nodes if node.state in NODE_ALIVE}
        return plan_changes(lab.spec if lab else None, spec, running)

    async def _check(self, name: str, spec: LabSpec) -> dict[str, Sized]:
        """Look up and try everything that can be tried without a change.

        Raises:
            InputError, LaunchFailed: It cannot work.
        """
        sized = await self._converger.size(spec)
        draft = LabRecord(
            name=name, key="draft0", spec=spec, wanted=Wanted.RUNNING, state=LabState.STARTING
        )
        keys = {node.name: f"k{index:05d}" for index, node in enumerate(spec.nodes)}
        self._world.plan_network(draft.spec, draft.key, keys)
        for accel in {node.accel for node in spec.nodes} - {Accel.TCG}:
            await self._world.choose_accel(accel)
        return sized

    async def up(
        self, name: str, spec: LabSpec, *, keep: bool, timeout: float | None
    ) -> OperationRecord:
        """Bring a lab up; see `EngineApi.up`."""
        check_name(name, "lab")
        self._operations.require_free(name)
        sized = await self._check(name, spec)
        async with self._admitting:
            lab = await self._world.inventory.lab(name)
            nodes = await self._world.inventory.nodes(name)
            alive = {node.name for node in nodes if node.state in NODE_ALIVE}
            due = [s for node_name, s in sized.items() if node_name not in alive]
            await self._admit(name, due)
            records = await self._new_nodes(name, spec, {node.name for node in nodes})
            request: dict[str, object] = {
                "new": lab is None,
                "keep": keep,
                "timeout": timeout,
                "before": sorted(alive),
            }

            async def intent(tx: Transaction, operation: OperationRecord) -> None:
                await self._write_up(tx, operation, name, spec, lab, nodes, records)

            return await self._operations.begin(_K.UP, name, request, self.work_up, intent)

    async def _admit(self, name: str, due: Sequence[Sized]) -> None:
        if not due:
            return
        promised = sum(
            node.machine.memory
            for node in await self._world.inventory.nodes()
            if node.state is NodeState.STARTING and node.machine is not None
        )
        limits = self._world.limits
        admit(
            name,
            [sized.memory for sized in due],
            available=self._world.memory_available(),
            reserve=limits.memory_reserve,
            overhead=limits.node_overhead,
            promised=promised,
        )

    async def _new_nodes(self, lab: str, spec: LabSpec, known: set[str]) -> list[NodeRecord]:
        names = [node.name for node in spec.nodes if node.name not in known]
        taken = {node.uid for node in await self._world.inventory.nodes()}
        base = self._world.limits.uid_base
        free = [uid for uid in range(base, base + NODE_UIDS) if uid not in taken]
        if len(names) > len(free):
            raise NoRoom(
                f"lab {lab} needs {len(names)} user ids and {len(free)} of {NODE_UIDS} are free; "
                "destroy a lab first"
            )
        return [
            NodeRecord(
                lab=lab,
                name=name,
                key=new_key(),
                uuid=str(uuid.uuid4()),
                uid=uid,
                wanted=Wanted.RUNNING,
                state=NodeState.STOPPED,
                since=self._world.clock(),
            )
            for name, uid in zip(names, free, strict=False)
        ]

    async def _write_up(
        self,
        tx: Transaction,
        operation: OperationRecord,
        name: str,
        spec: LabSpec,
        lab: LabRecord | None,
        nodes: Sequence[NodeRecord],
        new: Sequence[NodeRecord],
    ) -> None:
        names = {node.name for node in spec.nodes}
        start = bool(new) or any(n.state not in NODE_ALIVE for n in nodes if n.name in names)
        if lab is None:
            lab = LabRecord(
                name=name,
                key=new_key(),
                spec=spec,
                wanted=Wanted.RUNNING,
                state=LabState.STARTING,
                created=self._world.clock(),
            )
            await tx.put_lab(lab)
            await self._emit(tx, EventType.LAB_CREATED, operation, data={"template": spec.template})
        else:
            changed = lab.spec != spec
            previous = lab.previous or (lab.spec if changed else None)
            lab = replace(lab, spec=spec, previous=previous, wanted=Wanted.RUNNING)
            await tx.put_lab(lab)
            if changed:
                await self._emit(
                    tx, EventType.LAB_CHANGED, operation, data={"template": spec.template}
                )
            if (start or changed) and lab.state is not LabState.STARTING:
                await self._journal.put_lab_state(tx, lab, LabState.STARTING, operation.id)
        for node in nodes:
            if node.name in names and node.wanted is not Wanted.RUNNING:
                await tx.put_node(replace(node, wanted=Wanted.RUNNING))
        for node in new:
            await tx.put_node(node)
            await self._emit(tx, EventType.NODE_CREATED, operation, node=node.name)

    async def _emit(
        self,
        tx: Transaction,
        kind: EventType,
        operation: OperationRecord,
        *,
        node: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        await tx.emit(
            Happening(
                type=kind, lab=operation.lab, node=node, operation=operation.id, data=data or {}
            )
        )

    async def work_up(self, operation: OperationRecord) -> None:
        """Bring it up; on failure take back what this operation did, unless it shall be kept."""
        timeout = operation.request.get("timeout")
        limit = float(timeout) if isinstance(timeout, int | float) else None
        try:
            async with asyncio.timeout(limit):
                await self._converger.apply(operation.lab, operation)
        except TimeoutError:
            error = GuestFailed(
                f"lab {operation.lab} was not up within {limit:g} s", timed_out=True
            )
            await self._undo_up(operation, error)
            raise error from None
        except LabdError as error:
            await self._undo_up(operation, error)
            raise

    async def _undo_up(self, operation: OperationRecord, error: LabdError) -> None:
        name, request = operation.lab, operation.request
        lab = await self._journal.lab(name)
        if request.get("keep"):
            async with self._world.inventory.transaction() as tx:
                await self._journal.put_lab_state(
                    tx, lab, LabState.FAILED, operation.id, error.message
                )
        elif request.get("new"):
            await self._want(name, Wanted.DESTROYED, operation)
            await self._converger.destroy(name, operation)
        elif lab.previous is not None:
            await self._revert(lab, lab.previous, operation)
        else:
            before = request.get("before")
            kept = {str(item) for item in before} if isinstance(before, list) else set()
            await self._converger.undo_starts(name, kept, operation)
            await self._journal.settle(name, operation.id)

    async def _revert(self, lab: LabRecord, old: LabSpec, operation: OperationRecord) -> None:
        """Go back to the spec before; what cannot be restored is left degraded and logged."""
        async with self._world.inventory.transaction() as tx:
            back = replace(lab, spec=old, previous=lab.spec)
            await tx.put_lab(back)
            await self._emit(
                tx, EventType.LAB_CHANGED, operation, data={"template": back.spec.template}
            )
        try:
            await self._converger.apply(lab.name, operation)
        except LabdError as error:
            log.warning("lab %s could not be taken back to its old spec: %s", lab.name, error)
        lab = await self._journal.lab(lab.name)
        async with self._world.inventory.transaction() as tx:
            await tx.put_lab(replace(lab, previous=None))
        await self._journal.settle(lab.name, operation.id)

    # actions

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str],
        *,
        force: bool,
        grace: float,
    ) -> OperationRecord:
        """Do something to a lab or some of its nodes; see `EngineApi.act`."""
        self._operations.require_free(lab)
        record = await self._journal.lab(lab)
        present = {node.name: node for node in await self._world.inventory.nodes(lab)}
        for name in nodes:
            if name not in present:
                raise NotFound(f"there is no node {lab}/{name}{did_you_mean(name, present)}")
        if kind in _WHOLE and nodes:
            raise Conflict(f"{kind} takes a whole lab; for nodes use stop")
        wanted = self._targets(kind, record, nodes, present)
        if kind in {_K.START, _K.RESTART}:
            sized = await self._check(lab, record.spec)
            idle = [n for n in wanted if present[n].state not in NODE_ALIVE]
            await self._admit(lab, [sized[name] for name in idle])
        request = {"nodes": sorted(wanted), "force": force, "grace": grace}

        async def intent(tx: Transaction, operation: OperationRecord) -> None:
            await self._write_act(tx, operation, record, wanted, present)

        return await self._operations.begin(kind, lab, request, self._work_of(kind), intent)

    def _targets(
        self,
        kind: OperationKind,
        lab: LabRecord,
        nodes: Sequence[str],
        present: Mapping[str, NodeRecord],
    ) -> list[str]:
        """Return the nodes that an action is about.

        Raises:
            IllegalTransition: A named node, or every node of the lab, is in no state for it.
        """
        names = list(nodes) or list(present)
        if kind is _K.START:
            return sorted(closure(names, {node.name: node for node in lab.spec.nodes}))
        states = _FROM.get(kind)
        if states is None:
            return names
        able = [name for name in names if present[name].state in states]
        unable = [name for name in names if name not in able]
        if unable and (nodes or not able):
            wrong = present[unable[0]]
            raise IllegalTransition(
                f"{lab.name}/{wrong.name}", str(wrong.state), sorted(map(str, states)), str(kind)
            )
        return able

    async def _write_act(
        self,
        tx: Transaction,
        operation: OperationRecord,
        lab: LabRecord,
        targets: Sequence[str],
        present: Mapping[str, NodeRecord],
    ) -> None:
        kind = operation.kind
        wanted = {
            _K.DOWN: Wanted.STOPPED,
            _K.STOP: Wanted.STOPPED,
            _K.DESTROY: Wanted.DESTROYED,
            _K.START: Wanted.RUNNING,
            _K.RESTART: Wanted.RUNNING,
        }.get(kind)
        if wanted is None:
            return
        for name in targets:
            await tx.put_node(replace(present[name], wanted=wanted))
        if kind in {_K.START, _K.RESTART}:
            lab = replace(lab, wanted=Wanted.RUNNING)
        elif kind in _WHOLE:
            lab = replace(lab, wanted=wanted)
        await tx.put_lab(lab)
        states = {_K.DOWN: LabState.STOPPING, _K.DESTROY: LabState.DESTROYING}
        state = states.get(kind)
        if kind is _K.START and lab.state is LabState.STOPPED:
            state = LabState.STARTING
        if state is not None and state is not lab.state:
            await self._journal.put_lab_state(tx, lab, state, operation.id)

    async def _want(self, name: str, wanted: Wanted, operation: OperationRecord) -> None:
        lab = await self._journal.lab(name)
        async with self._world.inventory.transaction() as tx:
            lab = replace(lab, wanted=wanted)
            await tx.put_lab(lab)
            if wanted is Wanted.DESTROYED:
                await self._journal.put_lab_state(tx, lab, LabState.DESTROYING, operation.id)

    def work_of(self, kind: OperationKind) -> Callable[[OperationRecord], Awaitable[None]] | None:
        """Return how an operation of a lab is worked on; None when it is none of a lab."""
        if kind is _K.UP:
            return self.work_up
        return self._work_of(kind) if kind in _WORKS else None

    def _work_of(self, kind: OperationKind) -> Callable[[OperationRecord], Awaitable[None]]:
        method = _WORKS[kind]

        async def work(operation: OperationRecord) -> None:
            await method(self, operation)

        return work

    async def _work_down(self, operation: OperationRecord) -> None:
        force, grace = _manner(operation)
        await self._converger.take_down(operation.lab, operation, force=force, grace=grace)

    async def _work_destroy(self, operation: OperationRecord) -> None:
        await self._converger.destroy(operation.lab, operation)

    async def _work_stop(self, operation: OperationRecord) -> None:
        force, grace = _manner(operation)
        await self._converger.stop_nodes(
            operation.lab, _nodes(operation), operation, force=force, grace=grace
        )

    async def _work_start(self, operation: OperationRecord) -> None:
        try:
            await self._converger.bring_up(operation.lab, operation)
        except LabdError:
            await self._journal.settle(operation.lab, operation.id)
            raise

    async def _work_restart(self, operation: OperationRecord) -> None:
        await self._work_stop(operation)
        await self._work_start(operation)

    async def _work_pause(self, operation: OperationRecord) -> None:
        await self._each(operation, self._world.hypervisor.pause, {NodeState.PAUSED})

    async def _work_resume(self, operation: OperationRecord) -> None:
        back = {NodeState.RUNNING, NodeState.READY}
        await self._each(operation, self._world.hypervisor.resume, back)

    async def _each(
        self,
        operation: OperationRecord,
        call: Callable[[str], Awaitable[None]],
        states: set[NodeState],
    ) -> None:
        """Call the hypervisor for each node, and wait until the watcher has seen the effect."""

        async def one(name: str) -> None:
            ref = NodeRef(operation.lab, name)
            node = await self._journal.node(ref)
            self._watcher.caused_by(node.key, operation.id)
            await call(node.key)
            over = {*states, NodeState.CRASHED, NodeState.STOPPED}
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._journal.wait_node(ref, over)

        await asyncio.gather(*(one(name) for name in _nodes(operation)))

    async def _work_reset(self, operation: OperationRecord) -> None:
        for name in _nodes(operation):
            node = await self._journal.node(NodeRef(operation.lab, name))
            self._watcher.caused_by(node.key, operation.id)
            await self._world.hypervisor.reset(node.key)
            if node.state in {NodeState.PANICKED, NodeState.PAUSED}:
                await self._world.hypervisor.resume(node.key)
        await self._watcher.drain()


def _nodes(operation: OperationRecord) -> list[str]:
    nodes = operation.request.get("nodes")
    return [str(name) for name in nodes] if isinstance(nodes, list | tuple) else []


def _manner(operation: OperationRecord) -> tuple[bool, float]:
    """Return `force` and `grace` (seconds) of a request."""
    grace = operation.request.get("grace", 20.0)
    force = bool(operation.request.get("force"))
    return force, float(grace) if isinstance(grace, int | float) else 20.0


_WORKS = {
    _K.DOWN: Labs._work_down,
    _K.DESTROY: Labs._work_destroy,
    _K.STOP: Labs._work_stop,
    _K.START: Labs._work_start,
    _K.RESTART: Labs._work_restart,
    _K.PAUSE: Labs._work_pause,
    _K.RESUME: Labs._work_resume,
    _K.RESET: Labs._work_reset,
}
