"""The work of `lab checkpoint save`: a barrier, then files. Until the row is there, nothing is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from labd.core import chains
from labd.core.adapters import Adapters, new_key
from labd.core.operations import Operations
from labd.core.snapshot import SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.features.labs import Teardown, Watcher
from labd.model.checkpoints import (
    CheckpointRecord,
    Growth,
    HostFacts,
    Saved,
    SavedNode,
    SaveMode,
    SaveOrder,
)
from labd.model.disks import DiskRef
from labd.model.errors import Conflict, LabdError, WorldError
from labd.model.events import EventDraft, EventType
from labd.model.machine import MachineSpec, RunState
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.request_kinds import CheckpointRequest
from labd.model.states import NODE_SAVEABLE, NodeState

log = logging.getLogger(__name__)

_RAN = frozenset({NodeState.RUNNING, NodeState.READY})


@dataclass(frozen=True, slots=True, kw_only=True)
class _SaveScope:
    """What is being saved.

    Attributes:
        machines: Node -> machine, with the new tops.
        undo: What takes the files back; the commit of the row disarms it.
    """

    lab: LabRecord
    nodes: tuple[NodeRecord, ...]
    machines: Mapping[str, MachineSpec]
    folder: Path
    key: str
    undo: AsyncExitStack


class Saving:
    """Saves labs."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        loader: SnapshotLoader,
        teardown: Teardown,
        watcher: Watcher,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._loader = loader
        self._teardown = teardown
        self._watcher = watcher
        self._store = adapters.checkpoints

    async def work(self, operation: OperationRecord) -> None:
        """Save a lab; on failure it runs on and nothing is left of the checkpoint.

        Once its row is committed there is no way back: whatever comes then, a stop of labd as well,
        the checkpoint is there, and the next daemon does what is left.
        """
        request = operation.request_as(CheckpointRequest)
        key = request.key
        go_on = request.mode is SaveMode.LIVE
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._store.discard, key)
            snapshot = await self._grow(operation, key, undo)
            record = await self._save(snapshot, operation, go_on=go_on)
        log.info("lab %s is saved as %s (%s)", snapshot.lab.name, record.name, key)
        await self._tidy(snapshot)
        await self.finish(operation)

    async def finish(self, operation: OperationRecord) -> None:
        """Do what comes after the row; the next daemon goes on from here.

        Raises:
            WorldError: There is no row: an earlier daemon died before it was written.
        """
        request = operation.request_as(CheckpointRequest)
        if all(
            record.key != request.key for record in await self._adapters.inventory.checkpoints()
        ):
            raise WorldError("labd was restarted meanwhile; ask for it again")
        if request.mode is SaveMode.STOP:
            await self._teardown.take_down(operation.lab, operation, force=True, grace=0)

    async def _grow(self, operation: OperationRecord, key: str, undo: AsyncExitStack) -> _SaveScope:
        """Make a new top for each disk, and write it down."""
        folder = await self._store.stage(key)
        lab = await self._state_writer.lab(operation.lab)
        nodes = await self._adapters.inventory.nodes(lab.name)
        machines: dict[str, MachineSpec] = {}
        token = new_key()
        for node in nodes:
            if node.machine is None or node.state not in NODE_SAVEABLE:
                raise Conflict(
                    f"node {lab.name}/{node.name} is {node.state}: all nodes must run when a lab "
                    "is saved"
                )
            grown, growths = chains.grow(node.machine, token)
            for disk in node.machine.disks:
                top = next((g.top for g in growths if g.disk == disk.id), None)
                if top is not None:
                    await self._adapters.storage.child(top, disk.ref)
            machines[node.name] = grown
        if any(machines[node.name] != node.machine for node in nodes):
            async with self._adapters.inventory.transaction() as tx:
                for node in await self._adapters.inventory.nodes(lab.name):
                    await tx.put_node(replace(node, machine=machines[node.name]))
        return _SaveScope(
            lab=lab, nodes=tuple(nodes), machines=machines, folder=folder, key=key, undo=undo
        )

    async def _save(
        self, snapshot: _SaveScope, operation: OperationRecord, *, go_on: bool
    ) -> CheckpointRecord:
        orders = [self._order(snapshot, node) for node in snapshot.nodes]
        kinds = {machine.kind for machine in snapshot.machines.values()}
        snapshots = self._adapters.nodes.snapshots_of(kinds)
        facts = await snapshots.facts()
        keys = [node.key for node in snapshot.nodes]
        with self._watcher.suppressed(keys):
            try:
                async with AsyncExitStack() as undo:
                    undo.push_async_callback(self._put_back, snapshot)
                    saved = await snapshots.save(orders, go_on=go_on)
                    record = await self._write(snapshot, operation, saved, facts, undo.pop_all)
            finally:
                await self._watcher.drain()
        return record

    def _order(self, snapshot: _SaveScope, node: NodeRecord) -> SaveOrder:
        machine = snapshot.machines[node.name]
        return SaveOrder(
            key=node.key,
            stream=snapshot.folder / f"{node.name}.stream",
            grow=tuple(
                Growth(disk=disk.id, top=disk.ref)
                for disk in machine.disks
                if chains.is_written(disk)
            ),
            copies=tuple(
                (machine.folder / name, snapshot.folder / f"{node.name}.{name}")
                for name in self._adapters.nodes.snapshots(machine).own_files(machine)
            ),
        )

    async def _put_back(self, snapshot: _SaveScope) -> None:
        """Let every node run on that ran, and write down those that do not."""
        for node in snapshot.nodes:
            ref = NodeRef(node.lab, node.name)
            try:
                await self._adapters.nodes.snapshots(node.key).abandon(
                    node.key, run=node.state in _RAN
                )
                if await self._adapters.nodes.query(node.key) is RunState.PAUSED:
                    live = set(NodeState) - _RAN
                    await self._state_writer.move(ref, NodeState.PAUSED, unless=live)
            except LabdError as error:
                log.warning("node %s may not run on: %s", ref, error)

    async def _write(
        self,
        snapshot: _SaveScope,
        operation: OperationRecord,
        saved: Saved,
        facts: HostFacts,
        then: Callable[[], object],
    ) -> CheckpointRecord:
        """Take in what QEMU wrote; the last step makes it a checkpoint."""
        request = operation.request_as(CheckpointRequest)
        moved = await self._move_layers(snapshot)
        machines = {name: chains.settle(m, moved) for name, m in snapshot.machines.items()}
        total = len(snapshot.nodes)
        nodes = []
        for index, node in enumerate(snapshot.nodes):
            await self._operations.progress(operation, index, total, f"storing {node.name}")
            nodes.append(await self._saved_node(snapshot, node, machines[node.name], saved))
        order = {spec.name: index for index, spec in enumerate(snapshot.lab.spec.nodes)}
        record = CheckpointRecord(
            name=request.name,
            key=snapshot.key,
            lab=snapshot.lab.name,
            message=request.message,
            created=self._adapters.clock(),
            spec=snapshot.lab.spec,
            nodes=tuple(sorted(nodes, key=lambda node: order[node.name])),
            qemu=facts.qemu,
            cpu_model=facts.cpu_model,
            cpu_flags=tuple(sorted(facts.cpu_flags)),
            spread=saved.spread,
            pause=max(saved.pauses.values(), default=0.0),
            origin=snapshot.lab.origin,
            owner=snapshot.lab.owner,
        )
        record = replace(record, size=await self._store.publish(record))
        await self._commit(snapshot, operation, record, machines, then)
        return record

    async def _move_layers(self, snapshot: _SaveScope) -> dict[DiskRef, DiskRef]:
        """Copy the disks' frozen layers to the store; own name -> the store's."""
        moved = {}
        for machine in snapshot.machines.values():
            for ref in chains.own_layers(machine):
                moved[ref] = self._store.layer(await self._store.add_layer(ref))
        return moved

    async def _saved_node(
        self, snapshot: _SaveScope, node: NodeRecord, machine: MachineSpec, saved: Saved
    ) -> SavedNode:
        stream = snapshot.folder / f"{node.name}.stream"
        ram, ram_bytes, state = await self._store.absorb(snapshot.key, node.name, stream)
        files = [
            (name, await self._store.digest(snapshot.key, f"{node.name}.{name}"))
            for name in self._adapters.nodes.snapshots(machine).own_files(machine)
        ]
        sized = await self._loader.size(snapshot.lab.spec)
        return SavedNode(
            name=node.name,
            kvm=machine.kvm,
            cpu=machine.cpu,
            memory=machine.memory,
            machine_type=saved.machine_types[node.key],
            fingerprint=self._adapters.nodes.snapshots(machine).fingerprint(machine),
            image=sized[node.name].image.digest,
            ram=ram,
            ram_bytes=ram_bytes,
            state=state,
            disks=chains.saved_disks(machine, self._store.digest_of),
            files=tuple(files),
            ready=node.state is not NodeState.RUNNING,
            agent=node.key in saved.agents,
            balloon=machine.balloon,
        )

    async def _commit(
        self,
        snapshot: _SaveScope,
        operation: OperationRecord,
        record: CheckpointRecord,
        machines: Mapping[str, MachineSpec],
        then: Callable[[], object],
    ) -> None:
        """Write the row and what it means for the lab; `then` is called when it is committed."""
        async with self._adapters.inventory.transaction() as tx:
            tx.on_commit(snapshot.undo.pop_all)
            tx.on_commit(then)
            await tx.put_checkpoint(record)
            stop = operation.request_as(CheckpointRequest).mode is SaveMode.STOP
            if stop:
                lab = await self._state_writer.lab(snapshot.lab.name)
                await tx.put_lab(replace(lab, wanted=Wanted.STOPPED))
            for node in await self._adapters.inventory.nodes(snapshot.lab.name):
                wanted = Wanted.STOPPED if stop else node.wanted
                machine = machines.get(node.name, node.machine)
                if (node.machine, node.wanted) != (machine, wanted):
                    await tx.put_node(replace(node, machine=machine, wanted=wanted))
            data = {
                "key": record.key,
                "nodes": [node.name for node in record.nodes],
                "pause_ms": round(record.pause * 1000, 3),
                "spread_ms": round(record.spread * 1000, 3),
                "size": record.size,
            }
            await tx.emit(
                EventDraft(
                    type=EventType.CHECKPOINT_SAVED,
                    lab=snapshot.lab.name,
                    subject=record.name,
                    operation=operation.id,
                    data=data,
                )
            )

    async def _tidy(self, snapshot: _SaveScope) -> None:
        """Remove the disks' frozen layers that the store has now; QEMU holds them open still."""
        refs = [ref for m in snapshot.machines.values() for ref in chains.own_layers(m)]
        for ref in refs:
            await self._adapters.storage.delete(ref)
