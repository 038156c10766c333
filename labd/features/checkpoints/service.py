"""Requests about checkpoints: each checks, writes its intent, and starts an operation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from labd.core import chains
from labd.core.adapters import Adapters, new_key
from labd.core.operations import More, Operations
from labd.core.resolve import Sized
from labd.core.state_writer import StateWriter
from labd.drivers.node.capabilities import Snapshots
from labd.features.checkpoints.garbage import CheckpointCollector
from labd.features.checkpoints.offers import ReadyForks
from labd.features.checkpoints.saving import Saving
from labd.features.checkpoints.views import CheckpointView
from labd.features.labs import Labs, plan_changes
from labd.features.leases import Leasing
from labd.host.threads import quick
from labd.inventory.port import Transaction
from labd.model.checkpoints import MAX_COUNT, CheckpointRecord, HostFacts, SavedNode, SaveMode
from labd.model.errors import (
    Conflict,
    IllegalTransition,
    InputError,
    InUse,
    LaunchFailed,
    NoRoom,
    NotFound,
)
from labd.model.events import EventDraft, EventType
from labd.model.lab_leases import LeaseAsk
from labd.model.names import check_name, did_you_mean
from labd.model.people import owner_now
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.request_kinds import CheckpointRequest, ForkRequest, RestoreRequest
from labd.model.requests import Request
from labd.model.specs import Accel, LabSpec
from labd.model.states import NODE_SAVEABLE, LabState
from labd.model.units import format_size
from labd.template.recheck import check_spec

_MEASURED = 4  # labs whose memory is looked at
_MESSAGE = 500  # characters
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


def misfit(record: CheckpointRecord, host: HostFacts) -> str:
    """Return why a checkpoint cannot work on a host; empty when it can. Pure."""
    for node in record.nodes:
        if node.machine_type not in host.machines:
            return (
                f"node {node.name} was saved with machine {node.machine_type}, which QEMU "
                f"{host.qemu} does not have; install QEMU {record.qemu} or newer"
            )
        if not node.kvm and _release(record.qemu) != _release(host.qemu):
            return (
                f"node {node.name} was saved with QEMU {record.qemu} and software emulation, whose "
                f"CPU is another one in QEMU {host.qemu}; save it again on this host"
            )
        missing = sorted(set(record.cpu_flags) - host.cpu_flags) if node.kvm else []
        if missing:
            return (
                f"node {node.name} was saved on {record.cpu_model}, and this host's CPU lacks "
                f"{', '.join(missing[:8])}"
            )
    return ""


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


class CheckpointService:
    """Freezes labs, and starts labs from what was frozen."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        labs: Labs,
        saving: Saving,
        collector: CheckpointCollector,
        leasing: Leasing,
        ready: ReadyForks,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._labs = labs
        self._saving = saving
        self._collector = collector
        self._leasing = leasing
        self._ready = ready
        self._admitting = asyncio.Lock()  # from the look at the room to the promise of it

    # reading

    async def all(self) -> Sequence[CheckpointView]:
        """Return all checkpoints by name."""
        return [await self._view(record) for record in await self._adapters.inventory.checkpoints()]

    async def get(self, name: str) -> CheckpointView:
        """Return one checkpoint."""
        return await self._view(await self.record(name))

    async def _view(self, record: CheckpointRecord) -> CheckpointView:
        loaded = self._adapters.checkpoints.loaded().get(record.key, 0)
        return CheckpointView(record=record, labs=await self._labs_of(record), loaded=loaded)

    async def _labs_of(self, record: CheckpointRecord) -> tuple[str, ...]:
        labs = await self._adapters.inventory.labs()
        return tuple(lab.name for lab in labs if lab.origin == record.key)

    async def record(self, name: str) -> CheckpointRecord:
        """Return the row of a checkpoint.

        Raises:
            NotFound: There is none.
        """
        found = {record.name: record for record in await self._adapters.inventory.checkpoints()}
        if name not in found:
            raise NotFound(f"there is no checkpoint {name[:64]}{did_you_mean(name, found)}")
        return found[name]

    # saving

    async def save(
        self, lab: str, name: str, *, mode: SaveMode, message: str, key: str = ""
    ) -> OperationRecord:
        """Save a lab as a checkpoint.

        Raises:
            Conflict: The name is taken, or a node does not run.
            CapabilityMissing: A node is of a kind without checkpoints.

        `key` is the checkpoint's, when it was chosen before.
        """
        check_name(name, "checkpoint")
        if len(message) > _MESSAGE or not message.isprintable():
            raise InputError(f"the message must be one line of at most {_MESSAGE} characters")
        self._operations.require_free(lab)

        request = CheckpointRequest(name=name, mode=mode, message=message)

        async def intent(_: Transaction, operation: OperationRecord) -> Request:
            await self._require_name(name, operation.id)
            record = await self._state_writer.lab(lab)
            nodes = await self._adapters.inventory.nodes(lab)
            for node in nodes:
                if node.state not in NODE_SAVEABLE or node.machine is None:
                    states = sorted(map(str, NODE_SAVEABLE))
                    raise IllegalTransition(f"{lab}/{node.name}", str(node.state), states, "save")
                _check_chain(node)
            if not nodes:
                raise Conflict(f"lab {record.name} has no nodes to save")
            self._savers(record.spec)
            was = {node.name: node.state for node in nodes}
            return replace(request, key=key or new_key(), was=was)

        return await self._operations.begin(lab, request, self._saving.work, intent)

    async def _require_name(self, name: str, own: str) -> None:
        if any(record.name == name for record in await self._adapters.inventory.checkpoints()):
            raise Conflict(
                f"there is a checkpoint {name} already; choose another name, or remove it with "
                f"`lab checkpoint rm {name}`"
            )
        for operation in self._operations.running():
            request = operation.request
            if operation.id == own or not isinstance(request, CheckpointRequest):
                continue
            if request.name == name:
                raise Conflict(f"a checkpoint {name} is being saved at this moment")

    # other hosts

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """Yield a checkpoint as one stream, for another host. Images do not go with it."""
        async for part in self._adapters.checkpoints.pack(await self.record(name)):
            yield part

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> CheckpointView:
        """Take a stream of `export` as a checkpoint called `name`.

        Raises:
            Conflict: The name is taken.
            InputError: It is no such stream, or is damaged. Nothing stays behind.
        """
        check_name(name, "checkpoint")
        await self._require_name(name, "")
        with self._collector.held():
            return await self._view(await self._receive(new_key(), name, chunks))

    async def _receive(self, key: str, name: str, chunks: AsyncIterator[bytes]) -> CheckpointRecord:
        store = self._adapters.checkpoints
        async with AsyncExitStack() as undo:
            undo.push_async_callback(store.discard, key)
            record = await store.receive(key, name, chunks)
            check_spec(record.spec)
            record = replace(record, created=self._adapters.clock(), owner=owner_now())
            record = replace(record, size=await store.publish(record))
            async with self._adapters.inventory.transaction() as tx:
                await self._require_name(name, "")
                await tx.put_checkpoint(record)
                data = {
                    "key": key,
                    "nodes": [node.name for node in record.nodes],
                    "size": record.size,
                }
                await tx.emit(EventDraft(type=EventType.CHECKPOINT_SAVED, subject=name, data=data))
                tx.on_commit(undo.pop_all)
        return record

    # removing

    async def remove(self, name: str) -> None:
        """Remove a checkpoint.

        Raises:
            InUse: Labs were started from it and exist still, which are named; or it has a pool.
        """
        async with self._adapters.inventory.transaction() as tx:
            record = await self.record(name)
            users = [
                *await self._labs_of(record),
                *(
                    operation.lab
                    for operation in self._operations.running()
                    if isinstance(operation.request, ForkRequest | RestoreRequest)
                    and operation.request.checkpoint == record.key
                ),
            ]
            if users:
                users = list(dict.fromkeys(users))
                shown = ", ".join(users[:10]) + (" …" if len(users) > 10 else "")
                raise InUse(
                    f"checkpoint {name} is in use by {shown}; destroy "
                    f"{'it' if len(users) == 1 else 'them'} first",
                    labs=users,
                )
            if any(
                pool.checkpoint == record.key for pool in await self._adapters.inventory.pools()
            ):
                raise InUse(
                    f"checkpoint {name} is in use: forks of it are kept ready; "
                    f"`lab pool cool {name}` ends its pool",
                    labs=[],
                )
            await tx.delete_checkpoint(name)
            await tx.emit(
                EventDraft(
                    type=EventType.CHECKPOINT_REMOVED, subject=name, data={"key": record.key}
                )
            )
        await self._adapters.checkpoints.discard(record.key)
        await self._collector.tidy()

    # forking

    async def fork(
        self,
        checkpoint: str,
        name: str,
        *,
        count: int,
        settings: Mapping[str, str],
        spec: LabSpec | None = None,
        lease: LeaseAsk | None = None,
        more: More | None = None,
    ) -> Sequence[OperationRecord]:
        """Start labs from a checkpoint: NAME, or NAME-1 to NAME-COUNT.

        Args:
            checkpoint: Its name.
            name: Of the new lab.
            count: How many; 0 for one lab with exactly that name.
            settings: What `on_fork` commands find in their environment, besides `LABD_LAB` and the
                parameters of the template.
            lease: Of each of the new labs.
            spec: What the labs shall be; the same machines and networks as the checkpoint's.

        Raises:
            Conflict: A name is taken, or the host cannot hold them; nothing was begun.
            InputError: It cannot work on this host; tells why.

        `more` is written with each lab.
        """
        names = _names(name, count)
        if lease is not None:
            self._leasing.check(lease)
        check_settings(settings)
        record = await self.usable(checkpoint)
        if spec is not None:
            _require_same(record, spec)
        for each in names:
            self._operations.require_free(each)
            if await self._adapters.inventory.lab(each) is not None:
                raise Conflict(f"there is a lab {each} already; choose another name")
        memory = await self._memory(record)
        whole = {f"{lab}/{node}": size for lab in names for node, size in memory.items()}
        wanted = spec or self.wanted(record)
        free = await quick(self._adapters.disk_available)
        async with self._admitting:
            try:
                await self._labs.with_room(lambda: self._labs.admit(name, whole, free))
            except NoRoom as error:
                raise _less(checkpoint, len(names), error) from error
            return [
                await self._begin_fork(record, each, wanted, settings, lease, more, memory)
                for each in names
            ]

    def wanted(self, record: CheckpointRecord) -> LabSpec:
        """Return what a fork of a checkpoint is, when nothing else is said. Pure."""
        return _unpinned(record.spec)

    async def need(self, record: CheckpointRecord) -> int:
        """Return the bytes of memory that one more lab from a checkpoint may need for itself.

        Half as much again as the labs that run from it have by now; half of what was frozen while
        there is none, for a page of it is copied when it is written.
        """
        largest = 0
        for lab in (await self._labs_of(record))[:_MEASURED]:
            nodes = await self._adapters.inventory.nodes(lab)
            pids = [node.process.pid for node in nodes if node.process is not None]
            sizes = [await quick(self._adapters.own_memory, pid) for pid in pids]
            if len(sizes) == len(record.nodes) and all(sizes):
                largest = max(largest, sum(sizes))
        return largest * 3 // 2 if largest else self.estimate(record)

    def estimate(self, record: CheckpointRecord) -> int:
        """Return what `need` does while no lab runs from a checkpoint. Pure."""
        overhead = self._adapters.limits.node_overhead
        return sum(node.ram_bytes // 2 + overhead for node in record.nodes)

    async def _memory(self, record: CheckpointRecord) -> dict[str, int]:
        """Return what the nodes of a fork may need, besides what each node needs anyway."""
        each = await self.need(record) // max(len(record.nodes), 1)
        each = max(each - self._adapters.limits.node_overhead, 0)
        return {node.name: each for node in record.nodes}

    async def usable(self, name: str) -> CheckpointRecord:
        """Return a checkpoint that can work here.

        Raises:
            InputError: It cannot; tells why.
            OverQuota: No lab may have so much.
        """
        record = await self.record(name)
        why = misfit(record, await self._savers(record.spec).facts())
        if why:
            raise InputError(f"checkpoint {name} cannot be used here: {why}")
        await self._require_accel(record)
        sized = await self._labs.size(record.spec)
        for node in record.nodes:
            self._require_image(record, node, sized[node.name])
        self._labs.require_quota(f"of checkpoint {name}", sized)
        await self._adapters.checkpoints.verify(record)
        return record

    def _savers(self, spec: LabSpec) -> Snapshots:
        """Return what saves and loads the nodes of a lab.

        Raises:
            CapabilityMissing, KindUnknown, Conflict: They cannot be saved; names the kind.
        """
        return self._adapters.nodes.snapshots_of({node.kind for node in spec.nodes})

    async def _require_accel(self, record: CheckpointRecord) -> None:
        """Raise InputError if CPUs that ran by KVM cannot do so here; TCG runs anywhere.

        Each needs the very CPU that it was saved with: QEMU would load the state into another.
        """
        kinds = {node.name: node.kind for node in record.spec.nodes}
        first = {
            (kinds[node.name], node.cpu): node.name for node in reversed(record.nodes) if node.kvm
        }
        for (kind, cpu), name in first.items():
            try:
                await self._adapters.nodes.accel(kind, Accel.KVM, cpu)
            except LaunchFailed as error:
                why = error.message.partition(";")[0]
                raise InputError(
                    f"checkpoint {record.name} cannot be used here: node {name} was saved with "
                    f"KVM, and {why}; save it again from a lab that was booted on this host"
                ) from error

    def _require_image(self, record: CheckpointRecord, node: SavedNode, sized: Sized) -> None:
        if sized.image.digest != node.image:
            raise InputError(
                f"checkpoint {record.name} cannot be used: image {sized.image.name} of node "
                f"{node.name} is another one by now, and {node.image[:19]} was saved"
            )

    async def _begin_fork(
        self,
        record: CheckpointRecord,
        name: str,
        spec: LabSpec,
        settings: Mapping[str, str],
        lease: LeaseAsk | None,
        more: More | None,
        memory: Mapping[str, int],
    ) -> OperationRecord:
        request = ForkRequest(checkpoint=record.key, settings=dict(settings))

        async def intent(tx: Transaction, operation: OperationRecord) -> Request:
            if await self._adapters.inventory.lab(name) is not None:
                raise Conflict(f"there is a lab {name} already; choose another name")
            await self.record(record.name)  # it may be gone by now
            taken = await self._ready.take(tx, record, spec, name)
            nodes = taken[1] if taken else await self._labs.new_nodes(name, spec, set())
            lab = LabRecord(
                name=name,
                key=taken[0] if taken else new_key(),
                # Kept with the lab: a reset tells its guests again who they are.
                spec=replace(spec, parameters={**spec.parameters, **settings}),
                wanted=Wanted.RUNNING,
                state=LabState.STARTING,
                created=self._adapters.clock(),
                origin=record.key,
                owner=owner_now(),
            )
            await self._put(tx, operation, lab, nodes)
            if taken:
                await self._ready.welcome(tx, record, lab, nodes, operation)
            if lease is not None:
                await self._leasing.write(tx, name, lease)
            if more is not None:
                await more(tx)
            # Promised until it is used; one of a pool uses it already.
            return replace(request, memory={} if taken else dict(memory))

        work = self._operations.work_of(request.kind)
        return await self._operations.begin(name, request, work, intent)

    async def _put(
        self,
        tx: Transaction,
        operation: OperationRecord,
        lab: LabRecord,
        nodes: Sequence[NodeRecord],
    ) -> None:
        await tx.put_lab(lab)
        data = {"template": lab.spec.template, "checkpoint": lab.origin}
        draft = EventDraft(
            type=EventType.LAB_CREATED, lab=lab.name, operation=operation.id, data=data
        )
        await tx.emit(draft)
        for node in nodes:
            await tx.put_node(node)
            await tx.emit(
                EventDraft(
                    type=EventType.NODE_CREATED,
                    lab=lab.name,
                    node=node.name,
                    operation=operation.id,
                )
            )

    # going back

    async def restore(
        self, lab: str, checkpoint: str = "", nodes: Sequence[str] = ()
    ) -> OperationRecord:
        """Take a lab, or some of its nodes, back to a checkpoint of it, in place.

        Args:
            lab: Its name.
            checkpoint: Empty for the one from which the lab was started.
            nodes: Empty for all.

        Raises:
            InputError: The checkpoint is of another lab, or cannot work on this host.
            Conflict: The lab was not started from a checkpoint.
        """
        row = await self._state_writer.lab(lab)
        record = await self.usable(checkpoint or (await self._start_of(row)).name)
        self._operations.require_free(lab)

        request = RestoreRequest(checkpoint=record.key)

        async def intent(tx: Transaction, _: OperationRecord) -> Request:
            row = await self._state_writer.lab(lab)
            present = {node.name: node for node in await self._adapters.inventory.nodes(lab)}
            _require_of(record, row, present)
            for name in nodes:
                if name not in present:
                    raise NotFound(f"there is no node {lab}/{name}{did_you_mean(name, present)}")
            if nodes and row.origin != record.key:
                raise InputError(
                    f"single nodes go back to where lab {lab} was started only; take the whole lab "
                    f"to checkpoint {record.name}"
                )
            spec = _unpinned(record.spec) if row.origin else record.spec
            spec = replace(spec, chapters=row.spec.chapters)
            spec = row.spec if nodes or row.origin == record.key else spec
            await tx.put_lab(
                replace(row, spec=spec, previous=None, origin=record.key, wanted=Wanted.RUNNING)
            )
            targets = sorted(nodes or present)
            for name in targets:
                await tx.put_node(replace(present[name], wanted=Wanted.RUNNING))
            return replace(request, nodes=tuple(targets))

        work = self._operations.work_of(request.kind)
        return await self._operations.begin(lab, request, work, intent)

    async def _start_of(self, lab: LabRecord) -> CheckpointRecord:
        """Return the checkpoint from which a lab was started.

        Raises:
            Conflict: It was booted.
        """
        for record in await self._adapters.inventory.checkpoints():
            if record.key == lab.origin:
                return record
        raise Conflict(
            f"lab {lab.name} was not started from a checkpoint: name one, or press the reset "
            f"buttons of its nodes with `lab reset --button {lab.name}`"
        )

    async def chapter(self, lab: str, *, again: bool) -> OperationRecord:
        """Take a lab to the next chapter of its template, or to the begin of the present one.

        Raises:
            InputError: The template has no chapters.
            Conflict: There is no next one, or none was begun yet.
        """
        row = await self._state_writer.lab(lab)
        chapters = row.spec.chapters
        if not chapters:
            raise InputError(
                f"template {row.spec.template} of lab {lab} has no chapters; name checkpoints in "
                "it: `chapters: [first, second]`"
            )
        names = {record.key: record.name for record in await self._adapters.inventory.checkpoints()}
        present = names.get(row.origin, "")
        at = chapters.index(present) if present in chapters else -1
        if again and at < 0:
            raise Conflict(
                f"lab {lab} is in no chapter yet; `lab chapter next {lab}` begins the first"
            )
        if not again and at + 1 == len(chapters):
            raise Conflict(f"lab {lab} is in its last chapter, {present}")
        wanted = chapters[at if again else at + 1]
        if wanted not in names.values():
            raise NotFound(
                f"there is no checkpoint {wanted}, which is chapter {chapters.index(wanted) + 1} "
                f"of lab {lab}; save it from a lab of template {row.spec.template}"
            )
        return await self.restore(lab, wanted)


def _unpinned(spec: LabSpec) -> LabSpec:
    """Return a spec whose published ports labd chooses: the source has those that it names."""
    return replace(
        spec,
        nodes=tuple(
            replace(node, publish=tuple(replace(item, host_port=0) for item in node.publish))
            for node in spec.nodes
        ),
    )


def check_settings(settings: Mapping[str, str]) -> None:
    """Raise InputError unless the names of settings are valid.

    Raises:
        InputError: One is not.
    """
    for key in settings:
        if not _SETTING.match(key):
            raise InputError(
                f"setting {key[:64]!r} cannot be a name in a guest's environment: use letters, "
                "digits and '_'"
            )


def _require_same(record: CheckpointRecord, spec: LabSpec) -> None:
    """Raise InputError unless a spec has the machines and networks that were saved.

    Raises:
        InputError: It has others; tells the first difference.
    """
    names = [node.name for node in spec.nodes]
    for change in plan_changes(record.spec, spec, names):
        if change.action != "update":
            why = f" ({change.why})" if change.why else ""
            raise InputError(
                f"the template does not fit checkpoint {record.name}: it would {change.action} "
                f"{change.kind} {change.name}{why}; bring it up without --from, and save it again"
            )


def _require_of(record: CheckpointRecord, lab: LabRecord, present: Collection[str]) -> None:
    if lab.spec.template != record.spec.template:
        raise InputError(
            f"checkpoint {record.name} is of template {record.spec.template}, and lab {lab.name} "
            f"of {lab.spec.template}; `lab fork {record.name} NAME` makes a lab of it"
        )
    if set(present) != {node.name for node in record.nodes}:
        raise InputError(
            f"lab {lab.name} has other nodes than checkpoint {record.name}; "
            f"`lab fork {record.name} NAME` makes a lab of it"
        )


def _check_chain(node: NodeRecord) -> None:
    for disk in node.machine.disks if node.machine is not None else ():
        if len(disk.backing) >= chains.LIMIT:
            raise Conflict(
                f"disk {disk.id} of {node.lab}/{node.name} has {len(disk.backing)} layers, and "
                f"each checkpoint adds one: fork the newest checkpoint and destroy this lab"
            )


def _less(checkpoint: str, count: int, error: NoRoom) -> NoRoom:
    """Return the error of forks that do not fit; of several it says how many would."""
    sizes = [error.details.get(key) for key in ("needed", "available", "reserve", "promised")]
    numbers = [size for size in sizes if isinstance(size, int)]
    if count < 2 or len(numbers) < len(sizes):
        return error
    needed, available, reserve, promised = numbers
    room = max(available - reserve - promised, 0)
    each = needed // count
    return NoRoom(
        f"{count} forks of {checkpoint} do not fit: each may need {format_size(each)}, and the "
        f"host has {format_size(room)} free, enough for {room // each}; ask for fewer, or stop "
        "other labs",
        **error.details,
    )


def _names(name: str, count: int) -> list[str]:
    """Return the names of new labs.

    Raises:
        InputError: One is not valid, or there are too many.
    """
    check_name(name, "lab")
    if count < 0 or count > MAX_COUNT:
        raise InputError(f"{count} copies cannot be made at once: ask for 1 to {MAX_COUNT}")
    if not count:
        return [name]
    return [check_name(f"{name}-{index}", "lab") for index in range(1, count + 1)]
