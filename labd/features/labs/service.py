"""Requests that change labs: each checks, writes its intent, and starts an operation."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from labd.core.adapters import NODE_UIDS, Adapters, new_key
from labd.core.admission import admit, demand, require_within
from labd.core.deps import closure
from labd.core.operations import More, Operations
from labd.core.resolve import Sized
from labd.core.snapshot import SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.features.labs.diff import plan_changes
from labd.features.labs.disk_sizes import Ground, look_at, require_sizes
from labd.features.labs.views import Change
from labd.features.publish import Publications
from labd.inventory.port import Transaction
from labd.model.errors import Conflict, IllegalTransition, InputError, LabdError, NoRoom, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.names import check_name, did_you_mean
from labd.model.people import owner_now
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord, Wanted
from labd.model.request_kinds import (
    ActionRequest,
    DestroyRequest,
    DownRequest,
    RestartRequest,
    Starting,
    StartRequest,
    UpRequest,
    WantedBefore,
    action_request,
)
from labd.model.requests import Request
from labd.model.slots import pin
from labd.model.specs import Accel, LabSpec
from labd.model.states import NODE_ALIVE, LabState, NodeState
from labd.model.units import MIB, format_size

_K = OperationKind
_T = TypeVar("_T")
# What else is written in the transaction that accepts an operation on a lab, after its row.
_WHOLE = {_K.DOWN, _K.DESTROY}
_STARTS = {_K.START, _K.RESTART}
_WANTED: Mapping[OperationKind, Wanted] = {
    _K.DOWN: Wanted.STOPPED,
    _K.STOP: Wanted.STOPPED,
    _K.DESTROY: Wanted.DESTROYED,
    _K.START: Wanted.RUNNING,
    _K.RESTART: Wanted.RUNNING,
}
_DISK_RESERVE = 32 * MIB  # bytes, below which nothing is started
# States of a node whose memory an operation was promised, and which does not use it yet.
_NOT_YET = frozenset({NodeState.STOPPED, NodeState.CRASHED, NodeState.STARTING})
# States from which a node can do what is asked; the others are left alone or refused.
_FROM: Mapping[OperationKind, frozenset[NodeState]] = {
    _K.PAUSE: frozenset({NodeState.RUNNING, NodeState.READY}),
    _K.RESUME: frozenset({NodeState.PAUSED}),
    _K.RESET: frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED, NodeState.PANICKED}),
}


class Labs:
    """The requests `up` and `plan`, and the actions."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        loader: SnapshotLoader,
        publications: Publications,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._loader = loader
        self._publications = publications
        # Bytes that shall be available -> how many idle forks were ended for them; see `WarmPools`.
        self.release: Callable[[int], Awaitable[int]] = _nothing

    # up

    async def plan(self, name: str, spec: LabSpec) -> Sequence[Change]:
        """Tell what `up` would do."""
        check_name(name, "lab")
        sized = await self.check(name, spec)
        lab = await self._adapters.inventory.lab(name)
        nodes = await self._adapters.inventory.nodes(name)
        kept = (await look_at(self._adapters, name)).kept
        require_sizes(name, await self._sized_before(lab), kept, sized)
        running = {node.name for node in nodes if node.state in NODE_ALIVE}
        old = lab.spec if lab else None
        isos = {item for item, found in sized.items() if found.iso}
        return plan_changes(old, pin(old, spec), running, isos)

    async def check(self, name: str, spec: LabSpec) -> Mapping[str, Sized]:
        """Look up and try everything that can be tried without a change.

        Raises:
            InputError, LaunchFailed: It cannot work, or a kind of node lacks what a node asks for.
            OverQuota: No lab may have so much.
        """
        self._adapters.nodes.require(spec)
        sized = await self._loader.size(spec)
        self.require_quota(name, sized)
        draft = LabRecord(
            name=name, key="draft0", spec=spec, wanted=Wanted.RUNNING, state=LabState.STARTING
        )
        keys = {node.name: f"k{index:05d}" for index, node in enumerate(spec.nodes)}
        plan = self._adapters.plan_network(draft.spec, draft.key, keys)
        await self._adapters.uplinks.check(plan)
        await self._adapters.servers.check(plan)
        for kind, accel in {(n.kind, n.accel) for n in spec.nodes if n.accel is not Accel.TCG}:
            await self._adapters.choose_accel(kind, accel)
        return sized

    def require_quota(self, name: str, sized: Mapping[str, Sized]) -> None:
        """Raise OverQuota unless a lab of these nodes has no more than one may have.

        Raises:
            OverQuota: It has; with the numbers.
        """
        require_within(name, demand(sized), self._adapters.limits.quotas)

    async def up(
        self,
        name: str,
        spec: LabSpec,
        *,
        keep: bool = False,
        force: bool = False,
        timeout: float | None = None,
        more: More | None = None,
        key: str = "",
    ) -> OperationRecord:
        """Bring a lab up: create it, start what is stopped, or apply an edited spec.

        Nodes that an edit restarts are asked to power off first, unless `force`. With `lease`, it
        has this one from now on.
        """
        check_name(name, "lab")
        self._operations.require_free(name)
        await self.check(name, spec)
        ground = Ground()

        async def look() -> None:
            nonlocal ground
            ground = await look_at(self._adapters, name)

        request = UpRequest(keep=keep, force=force, timeout=timeout)

        async def intent(tx: Transaction, operation: OperationRecord) -> Request:
            whole = await self._write_up(tx, operation, request, spec, key, ground)
            if more is not None:
                await more(tx)
            tx.on_commit(taken.clear)  # the operation's from here on
            return whole

        taken = await self._publications.reserve(name, spec)
        try:
            return await self.with_room(
                lambda: self._operations.begin(
                    name, request, self._operations.work_of(request.kind), intent, look
                )
            )
        except BaseException:
            await self._publications.release(taken)
            raise

    async def _sized_before(self, lab: LabRecord | None) -> Mapping[str, Sized]:
        """Return the present nodes of a lab, none where one is without its image or profile."""
        with suppress(InputError):
            return {} if lab is None else await self._loader.size(lab.spec)
        return {}

    async def admit(self, name: str, due: Mapping[str, int], free: int) -> None:
        """Wait until nodes (name -> bytes of memory) fit beside what other operations start.

        `free` are the bytes that are free where the disks are; see `look`.
        """
        if not due:
            return
        if free < _DISK_RESERVE:
            raise NoRoom(
                f"lab {name} was not started: {format_size(free)} is free where labd keeps disks, "
                f"and it starts nothing below {format_size(_DISK_RESERVE)}; remove labs or images, "
                "or make room",
                free=free,
                needed=_DISK_RESERVE,
            )
        limits = self._adapters.limits
        admit(
            name,
            list(due.values()),
            available=self._adapters.memory_available(),
            reserve=limits.memory_reserve,
            overhead=limits.node_overhead,
            promised=await self._promised(),
        )

    async def room(self) -> int:
        """Return the bytes that are neither in use, nor reserved, nor promised."""
        available = self._adapters.memory_available() - self._adapters.limits.memory_reserve
        return available - await self._promised()

    async def _promised(self) -> int:
        """Return the bytes that nodes which are starting have not touched yet."""
        if not self._operations.running():
            return 0  # nothing is read: warm pools ask ten times a second
        limits = self._adapters.limits
        states = {(n.lab, n.name): n.state for n in await self._adapters.inventory.nodes()}
        return sum(
            memory + limits.node_overhead
            for operation in self._operations.running()
            for node, memory in _memory(operation).items()
            if states.get((operation.lab, node)) in _NOT_YET
        )

    async def with_room(self, begin: Callable[[], Awaitable[_T]]) -> _T:
        """Begin something; where there is no room, warm pools give theirs back first.

        Raises:
            NoRoom: They had none, or too little.
        """
        try:
            return await begin()
        except NoRoom as error:
            sizes = [error.details.get(key) for key in ("needed", "reserve", "promised")]
            numbers = [size for size in sizes if isinstance(size, int)]
            if len(numbers) < len(sizes) or not await self.release(sum(numbers)):
                raise
        return await begin()

    async def size(self, spec: LabSpec) -> Mapping[str, Sized]:
        """Look up everything that the nodes of a spec name; see `SnapshotLoader.size`."""
        return await self._loader.size(spec)

    async def new_nodes(self, lab: str, spec: LabSpec, known: set[str]) -> list[NodeRecord]:
        """Return records for the nodes that are not known yet.

        Raises:
            NoRoom: No user id is free.
        """
        names = [node.name for node in spec.nodes if node.name not in known]
        taken = {node.uid for node in await self._adapters.every_node()}
        base = self._adapters.limits.uid_base
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
                since=self._adapters.clock(),
            )
            for name, uid in zip(names, free, strict=False)
        ]

    async def _write_up(
        self,
        tx: Transaction,
        operation: OperationRecord,
        request: UpRequest,
        spec: LabSpec,
        key: str,
        ground: Ground,
    ) -> UpRequest:
        """Admit, and write what shall be. All is read here, where nothing else can move."""
        name = operation.lab
        lab = await self._adapters.inventory.lab(name)
        if key and lab is not None and lab.key != key:
            raise Conflict(f"there is a lab {name} already; choose another name")
        spec = pin(lab.spec if lab else None, spec)
        sized = await self._loader.size(spec)
        nodes = await self._adapters.inventory.nodes(name)
        require_sizes(name, await self._sized_before(lab), ground.kept, sized)
        alive = {node.name for node in nodes if node.state in NODE_ALIVE}
        due = {item: s.memory for item, s in sized.items() if item not in alive}
        await self.admit(name, due, ground.free)
        new = await self.new_nodes(name, spec, {node.name for node in nodes})
        request = replace(
            request,
            new=lab is None,
            before=tuple(sorted(alive)),
            was=_was(lab, nodes) if lab is not None else None,
            memory=due,
        )
        if lab is None:
            lab = LabRecord(
                name=name,
                key=key or new_key(),
                spec=spec,
                wanted=Wanted.RUNNING,
                state=LabState.STARTING,
                created=self._adapters.clock(),
                owner=owner_now(),
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
            if (due or changed) and lab.state is not LabState.STARTING:
                await self._state_writer.put_lab_state(tx, lab, LabState.STARTING, operation.id)
        for node in nodes:
            wanted = Wanted.RUNNING if node.name in sized else Wanted.DESTROYED
            if node.wanted is not wanted:
                await tx.put_node(replace(node, wanted=wanted))
        for node in new:
            await tx.put_node(node)
            await self._emit(tx, EventType.NODE_CREATED, operation, node=node.name)
        return request

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
            EventDraft(
                type=kind, lab=operation.lab, node=node, operation=operation.id, data=data or {}
            )
        )

    # actions

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        """Do DOWN, DESTROY, START, STOP, RESTART, PAUSE, RESUME or RESET to a lab or some nodes.

        DOWN and DESTROY take the whole lab. `force` powers off without asking the guest; `grace`
        is how many seconds a guest has to obey.
        """
        if kind in _WHOLE and not nodes:
            return await self._end(kind, lab, force=force, grace=grace)
        return await self._begin(kind, lab, nodes, force=force, grace=grace)

    async def _end(
        self, kind: OperationKind, lab: str, *, force: bool, grace: float
    ) -> OperationRecord:
        """Begin to end a lab, whatever start of it is under way."""
        await self._operations.supersede(lab, kind)
        try:
            return await self._begin(kind, lab, (), force=force, grace=grace)
        except LabdError:
            # What was ended must not look as if it went on.
            if self._operations.holder(lab) is None:
                with suppress(LabdError):
                    await self._state_writer.settle(lab)
            raise

    async def _begin(
        self, kind: OperationKind, lab: str, nodes: Sequence[str], *, force: bool, grace: float
    ) -> OperationRecord:
        self._operations.require_free(lab)
        record = await self._state_writer.lab(lab)
        if kind in _WHOLE and nodes:
            raise Conflict(f"{kind} takes a whole lab; for nodes use stop")
        if kind in _STARTS:
            await self.check(lab, record.spec)
        ground = Ground()

        async def look() -> None:
            nonlocal ground
            if kind in _STARTS:
                ground = await look_at(self._adapters, lab)

        request = action_request(kind, force=force, grace=grace)

        async def intent(tx: Transaction, operation: OperationRecord) -> Request:
            tx.on_commit(taken.clear)  # the operation's from here on
            return await self._write_act(tx, operation, request, nodes, ground)

        # Whole labs and single nodes alike: a lab that is partly up has all its ports.
        taken = await self._publications.reserve(lab, record.spec) if kind in _STARTS else []
        try:
            return await self.with_room(
                lambda: self._operations.begin(
                    lab, request, self._operations.work_of(kind), intent, look
                )
            )
        except BaseException:
            await self._publications.release(taken)
            raise

    def _targets(
        self,
        kind: OperationKind,
        lab: LabRecord,
        nodes: Sequence[str],
        present: Mapping[str, NodeRecord],
    ) -> list[str]:
        """Return the nodes that an action is about.

        Raises:
            NotFound: There is no such node.
            IllegalTransition: A named node, or every node of the lab, is in no state for it.
        """
        for name in nodes:
            if name not in present:
                raise NotFound(f"there is no node {lab.name}/{name}{did_you_mean(name, present)}")
        names = list(dict.fromkeys(nodes)) or list(present)
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
        request: ActionRequest,
        nodes: Sequence[str],
        ground: Ground,
    ) -> ActionRequest:
        """Check, admit, and write what shall be. All is read here, where nothing else can move."""
        kind = operation.kind
        lab = await self._state_writer.lab(operation.lab)
        present = {node.name: node for node in await self._adapters.inventory.nodes(lab.name)}
        targets = self._targets(kind, lab, nodes, present)
        if not isinstance(request, DownRequest | DestroyRequest):
            request = replace(request, nodes=tuple(sorted(targets)))
        wanted = _WANTED.get(kind)
        if wanted is None:
            return request
        changed = list(targets)
        if isinstance(request, StartRequest | RestartRequest):
            changed = sorted(closure(targets, {node.name: node for node in lab.spec.nodes}))
            alive = {node.name for node in present.values() if node.state in NODE_ALIVE}
            sized = await self._loader.size(lab.spec)
            due = {name: sized[name].memory for name in changed if name not in alive}
            await self.admit(lab.name, due, ground.free)
            before = alive - set(targets) if kind is _K.RESTART else alive
            request = replace(
                request,
                before=tuple(sorted(before)),
                was=_was(lab, present.values()),
                memory=due,
                starts=tuple(changed),
            )
        for name in changed:
            await tx.put_node(replace(present[name], wanted=wanted))
        if kind in _STARTS or kind in _WHOLE:
            lab = replace(lab, wanted=wanted)
            await tx.put_lab(lab)
        if kind in _STARTS and lab.state is LabState.STOPPED:
            await self._state_writer.put_lab_state(tx, lab, LabState.STARTING, operation.id)
        elif kind in _WHOLE:
            await self._state_writer.derive(tx, lab.name, operation.id)
        return request


async def _nothing(_: int) -> int:
    return 0


def _was(lab: LabRecord, nodes: Iterable[NodeRecord]) -> WantedBefore:
    """Return the intent before an operation, for its undoing."""
    return WantedBefore(lab=lab.wanted, nodes={node.name: node.wanted for node in nodes})


def _memory(operation: OperationRecord) -> Mapping[str, int]:
    """Return the bytes of memory of each node that an operation starts."""
    return operation.request.memory if isinstance(operation.request, Starting) else {}
