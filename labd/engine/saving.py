"""The work of `lab checkpoint save`: a barrier, then files. Until the row is there, nothing is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from labd.engine import chains
from labd.engine.journal import Journal
from labd.engine.operations import Operations
from labd.engine.scenes import Scenes
from labd.engine.teardown import Teardown
from labd.engine.watch import Watcher
from labd.engine.world import World, new_key
from labd.host.threads import quick
from labd.model.checkpoints import (
    CheckpointRecord,
    Growth,
    HostFacts,
    Saved,
    SavedNode,
    SaveMode,
    SaveOrder,
)
from labd.model.errors import Conflict, LabdError, WorldError
from labd.model.events import EventType, Happening
from labd.model.machine import MachineSpec, RunState
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.states import NodeState

log = logging.getLogger(__name__)

SAVEABLE = frozenset({NodeState.RUNNING, NodeState.READY, NodeState.PAUSED})
_RAN = frozenset({NodeState.RUNNING, NodeState.READY})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What is being saved."""

    lab: LabRecord
    nodes: tuple[NodeRecord, ...]
    machines: Mapping[str, MachineSpec]  # node -> machine, with the new tops
    folder: Path
    key: str


class Saving:
    """Saves labs."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        operations: Operations,
        scenes: Scenes,
        teardown: Teardown,
        watcher: Watcher,
    ) -> None:
        self._world = world
        self._journal = journal
        self._operations = operations
        self._scenes = scenes
        self._teardown = teardown
        self._watcher = watcher
        self._store = world.checkpoints

    async def work(self, operation: OperationRecord) -> None:
        """Save a lab; on failure it runs on and nothing is left of the checkpoint."""
        key = str(operation.request["key"])
        go_on = operation.request["mode"] == SaveMode.LIVE
        folder = await self._store.stage(key)
        try:
            scene = await self._grow(operation, key, folder)
            record = await self._save(scene, operation, go_on=go_on)
        except BaseException:
            await self._store.discard(key)
            raise
        log.info("lab %s is saved as %s (%s)", scene.lab.name, record.name, key)
        await self._tidy(scene)
        await self.finish(operation)

    async def finish(self, operation: OperationRecord) -> None:
        """Do what comes after the row; the next daemon goes on from here.

        Raises:
            WorldError: There is no row: an earlier daemon died before it was written.
        """
        key = operation.request["key"]
        if all(record.key != key for record in await self._world.inventory.checkpoints()):
            raise WorldError("labd was restarted meanwhile; ask for it again")
        if operation.request["mode"] == SaveMode.STOP:
            await self._teardown.take_down(operation.lab, operation, force=True, grace=0)

    async def _grow(self, operation: OperationRecord, key: str, folder: Path) -> _Scene:
        """Make a new top for each disk, and write it down."""
        lab = await self._journal.lab(operation.lab)
        nodes = await self._world.inventory.nodes(lab.name)
        machines: dict[str, MachineSpec] = {}
        token = new_key()
        for node in nodes:
            if node.machine is None or node.state not in SAVEABLE:
                raise Conflict(
                    f"node {lab.name}/{node.name} is {node.state}: all nodes must run when a lab "
                    "is saved"
                )
            grown, growths = chains.grow(node.machine, token)
            for disk in node.machine.disks:
                top = next((g.top for g in growths if g.disk == disk.id), None)
                if top is not None:
                    await self._world.images.make_child(disk.path, top)
            machines[node.name] = grown
        if any(machines[node.name] != node.machine for node in nodes):
            async with self._world.inventory.transaction() as tx:
                for node in await self._world.inventory.nodes(lab.name):
                    await tx.put_node(replace(node, machine=machines[node.name]))
        return _Scene(lab=lab, nodes=tuple(nodes), machines=machines, folder=folder, key=key)

    async def _save(
        self, scene: _Scene, operation: OperationRecord, *, go_on: bool
    ) -> CheckpointRecord:
        orders = [self._order(scene, node) for node in scene.nodes]
        facts = await self._world.snapshots.facts()
        keys = [node.key for node in scene.nodes]
        with self._watcher.hushed(keys):
            try:
                saved = await self._world.snapshots.save(orders, go_on=go_on)
                record = await self._write(scene, operation, saved, facts)
            except BaseException:
                await self._put_back(scene)
                raise
            finally:
                await self._watcher.drain()
        return record

    def _order(self, scene: _Scene, node: NodeRecord) -> SaveOrder:
        machine = scene.machines[node.name]
        return SaveOrder(
            key=node.key,
            stream=scene.folder / f"{node.name}.stream",
            grow=tuple(
                Growth(disk=disk.id, top=disk.path)
                for disk in machine.disks
                if chains.is_written(disk)
            ),
            copies=tuple(
                (machine.folder / name, scene.folder / f"{node.name}.{name}")
                for name in self._world.snapshots.own_files(machine)
            ),
        )

    async def _put_back(self, scene: _Scene) -> None:
        """Let every node run on that ran, and write down those that do not."""
        for node in scene.nodes:
            ref = NodeRef(node.lab, node.name)
            try:
                await self._world.snapshots.put_back(node.key, run=node.state in _RAN)
                if await self._world.hypervisor.query(node.key) is RunState.PAUSED:
                    live = set(NodeState) - _RAN
                    await self._journal.move(ref, NodeState.PAUSED, unless=live)
            except LabdError as error:
                log.warning("node %s may not run on: %s", ref, error)

    async def _write(
        self, scene: _Scene, operation: OperationRecord, saved: Saved, facts: HostFacts
    ) -> CheckpointRecord:
        """Take in what QEMU wrote; the last step makes it a checkpoint."""
        moved = await self._move_layers(scene)
        machines = {name: chains.settle(m, moved) for name, m in scene.machines.items()}
        total = len(scene.nodes)
        nodes = []
        for index, node in enumerate(scene.nodes):
            await self._operations.progress(operation, index, total, f"storing {node.name}")
            nodes.append(await self._saved_node(scene, node, machines[node.name], saved))
        order = {spec.name: index for index, spec in enumerate(scene.lab.spec.nodes)}
        record = CheckpointRecord(
            name=str(operation.request["name"]),
            key=scene.key,
            lab=scene.lab.name,
            message=str(operation.request["message"]),
            created=self._world.clock(),
            spec=scene.lab.spec,
            nodes=tuple(sorted(nodes, key=lambda node: order[node.name])),
            qemu=facts.qemu,
            cpu_model=facts.cpu_model,
            cpu_flags=tuple(sorted(facts.cpu_flags)),
            spread=saved.spread,
            pause=max(saved.pauses.values(), default=0.0),
            origin=scene.lab.origin,
            owner=scene.lab.owner,
        )
        record = replace(record, size=await self._store.publish(record))
        await self._commit(scene, operation, record, machines)
        return record

    async def _move_layers(self, scene: _Scene) -> dict[Path, Path]:
        """Copy the disks' frozen files to the store; own path -> the store's."""
        moved = {}
        for machine in scene.machines.values():
            for path in chains.own_layers(machine):
                moved[path] = self._store.layer(await self._store.add_layer(path))
        return moved

    async def _saved_node(
        self, scene: _Scene, node: NodeRecord, machine: MachineSpec, saved: Saved
    ) -> SavedNode:
        stream = scene.folder / f"{node.name}.stream"
        ram, ram_bytes, state = await self._store.absorb(scene.key, node.name, stream)
        files = [
            (name, await self._store.digest(scene.key, f"{node.name}.{name}"))
            for name in self._world.snapshots.own_files(machine)
        ]
        sized = await self._scenes.size(scene.lab.spec)
        return SavedNode(
            name=node.name,
            kvm=machine.kvm,
            cpu=machine.cpu,
            memory=machine.memory,
            machine_type=saved.machine_types[node.key],
            fingerprint=self._world.snapshots.fingerprint(machine),
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
        scene: _Scene,
        operation: OperationRecord,
        record: CheckpointRecord,
        machines: Mapping[str, MachineSpec],
    ) -> None:
        async with self._world.inventory.transaction() as tx:
            await tx.put_checkpoint(record)
            stop = operation.request["mode"] == SaveMode.STOP
            if stop:
                lab = await self._journal.lab(scene.lab.name)
                await tx.put_lab(replace(lab, wanted=Wanted.STOPPED))
            for node in await self._world.inventory.nodes(scene.lab.name):
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
                Happening(
                    type=EventType.CHECKPOINT_SAVED,
                    lab=scene.lab.name,
                    subject=record.name,
                    operation=operation.id,
                    data=data,
                )
            )

    async def _tidy(self, scene: _Scene) -> None:
        """Remove the disks' frozen files that the store has now; QEMU holds them open still."""
        paths = [path for m in scene.machines.values() for path in chains.own_layers(m)]
        for path in paths:
            await quick(path.unlink, missing_ok=True)
