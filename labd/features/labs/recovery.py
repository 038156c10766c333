"""What a daemon does first: find out what runs, take it over, and go on with what was half done.

Truth is read from the kernel and from QMP; the rows say only what was wanted and last known.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labd.core.adapters import Adapters
from labd.core.chains import layers_of, references
from labd.core.operations import Operations
from labd.core.state_writer import StateWriter
from labd.features.labs.runner import NodeRunner
from labd.features.labs.watch import Watcher
from labd.features.links import LinkService
from labd.features.publish import Publications
from labd.features.serving import Serving
from labd.host.threads import quick
from labd.model.checkpoints import SaveMode
from labd.model.errors import (
    LabdError,
    NodeGone,
    NodeStuck,
    NodeUnresponsive,
    StorageFailed,
    Superseded,
    WorldError,
)
from labd.model.events import EventDraft, EventType
from labd.model.machine import FoundMachine, RunState
from labd.model.names import NodeRef
from labd.model.pools import MemberState, waiting
from labd.model.records import LabRecord, NodeRecord, OperationKind, OperationRecord, Wanted
from labd.model.request_kinds import CheckpointRequest, Starting
from labd.model.requests import Request
from labd.model.states import NODE_ALIVE, NODE_SAVEABLE, NodeState

log = logging.getLogger(__name__)

_AWAY = "while labd was away"
_NOT_STARTED = "its start was not finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the recovery found: counts for the log and the event `daemon.started`."""

    adopted: int
    lost: int
    orphans: int
    resumed: int


class RecoveryPart(Protocol):
    """What another feature takes over from an earlier daemon, after the nodes of labs."""

    async def recover(self) -> None:
        """Adopt what is still wanted, and end the rest."""


class Recovery:
    """Adoption, undoing and going on."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        watcher: Watcher,
        publications: Publications,
        serving: Serving,
        links: LinkService,
        runner: NodeRunner,
        parts: Sequence[RecoveryPart],
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._watcher = watcher
        self._publications = publications
        self._links = links
        self._saved: dict[str, NodeState] = {}
        self._serving = serving
        self._runner = runner
        self._parts = parts

    async def run(self) -> Recovered:
        """Adopt every node, end what nobody knows, and go on with operations.

        All nodes are adopted at one time, so that one that hangs holds up no other.
        """
        nodes = await self._adapters.inventory.nodes()
        self._saved = await self._interrupted_saves()
        pools = {pool.checkpoint for pool in await self._adapters.inventory.pools()}
        known = {node.key: node for node in (*nodes, *await self._waiting(pools))}
        orphans = await self._end_orphans(known)
        alive = [node for node in nodes if node.state in NODE_ALIVE]
        running = await self._adapters.inventory.operations(running=True, limit=10_000)
        held = {operation.lab for operation in running}
        for node in alive:
            if node.state is NodeState.STOPPING and node.lab not in held:
                self._watcher.left_stopping(node.key)
        outcomes = await asyncio.gather(*(self._take_over(node) for node in alive))
        for part in self._parts:
            await part.recover()
        await self._sweep([*nodes, *await self._waiting(pools)])
        for lab in await self._adapters.inventory.labs():
            if lab.wanted is Wanted.RUNNING:
                await self._publications.restore(lab)
                await self._restore_links(lab)
        resumed = await self._go_on()
        for lab in await self._adapters.inventory.labs():
            if self._operations.holder(lab.name) is None:
                await self._state_writer.settle(lab.name)
        return Recovered(
            adopted=sum(outcomes),
            lost=len(outcomes) - sum(outcomes),
            orphans=orphans,
            resumed=resumed,
        )

    async def _waiting(self, pools: Collection[str]) -> list[NodeRecord]:
        """Return the nodes of forks that stand ready in pools."""
        return waiting(
            member
            for member in await self._adapters.inventory.pool_members()
            if member.checkpoint in pools and member.state is MemberState.READY
        )

    async def _restore_links(self, lab: LabRecord) -> None:
        """Have the links of a lab as they were said to be when the last daemon died."""
        try:
            await self._links.sync(lab.name)
        except WorldError as error:
            log.warning("the links of lab %s are as they were: %s", lab.name, error)

    async def _interrupted_saves(self) -> dict[str, NodeState]:
        """Return `LAB/NODE` -> its state, of the nodes that a dead daemon was saving.

        Those of a lab that is saved already, and shall stop, do not run on.
        """
        found: dict[str, NodeState] = {}
        saved = {record.key for record in await self._adapters.inventory.checkpoints()}
        for operation in await self._adapters.inventory.operations(running=True, limit=10_000):
            if operation.kind is not OperationKind.CHECKPOINT:
                continue
            request, was = operation.request, await self._states_before(operation)
            if isinstance(request, CheckpointRequest) and request.key in saved:
                over = request.mode is SaveMode.STOP
                was = dict.fromkeys(was, NodeState.PAUSED) if over else was
            found |= {f"{operation.lab}/{node}": state for node, state in was.items()}
        return found

    async def _states_before(self, operation: OperationRecord) -> Mapping[str, NodeState]:
        """Return node -> its state before a save, which the rows kept if nobody can read it."""
        if isinstance(operation.request, CheckpointRequest):
            return operation.request.was
        nodes = await self._adapters.inventory.nodes(operation.lab)
        return {node.name: node.state for node in nodes if node.state in NODE_SAVEABLE}

    async def _put_back(self, ref: NodeRef, node: NodeRecord) -> None:
        """Let a node run on that was being saved; what it was doing is told by `adopt` again."""
        state = self._saved.get(str(ref))
        if state is None:
            return
        try:
            run = state in {NodeState.RUNNING, NodeState.READY}
            await self._adapters.nodes.snapshots(node.key).abandon(node.key, run=run)
        except WorldError as error:
            log.warning("node %s was being saved and may not run on: %s", ref, error)

    async def _end_orphans(self, known: dict[str, NodeRecord]) -> int:
        """End every QEMU of this root whose process was never committed: it was not let go yet."""
        orphans: list[FoundMachine] = []
        for found in await self._adapters.nodes.scan():
            node = known.get(found.key)
            if node is not None and node.process == found.process:
                continue
            log.warning(
                "ending QEMU %d of machine %s: nobody knows it", found.process.pid, found.key
            )
            orphans.append(found)
        ended = await asyncio.gather(*(self._end_orphan(found) for found in orphans))
        return sum(ended)

    async def _end_orphan(self, found: FoundMachine) -> bool:
        """End a QEMU; tell whether it did end. One that cannot holds up neither labd nor others."""
        try:
            await self._adapters.nodes.kill_process(found)
        except NodeStuck as error:
            log.warning("it stays: %s", error)
            return False
        return True

    async def _take_over(self, node: NodeRecord) -> bool:
        """Take over one node; one that cannot be taken over holds up neither labd nor others."""
        try:
            return await self._adopt(node)
        except StorageFailed:
            raise
        except LabdError as error:
            log.warning("node %s/%s cannot be taken over: %s", node.lab, node.name, error)
            return False

    async def _adopt(self, node: NodeRecord) -> bool:
        """Take over one node; tell whether it still lives."""
        ref = NodeRef(node.lab, node.name)
        if node.process is None or node.machine is None:
            await self._stopped(ref, _NOT_STARTED, "start-failed")
            return False
        try:
            found = await self._adapters.nodes.adopt(node.machine, node.process)
            if str(ref) in self._saved:
                await self._put_back(ref, node)
                found = await self._adapters.nodes.query(node.key)
        except NodeGone as gone:
            await self._gone(ref, node, gone)
            return False
        except NodeUnresponsive:
            if node.state is NodeState.STARTING:
                return not await self._end(ref, node, _NOT_STARTED, "start-failed")
            await self._tell_adopted(ref, node, "unresponsive")
            await self._state_writer.move(
                ref,
                NodeState.UNRESPONSIVE,
                reason=f"QEMU hung {_AWAY}",
                unless={NodeState.STOPPING, NodeState.PANICKED},
            )
            return True
        await self._tell_adopted(ref, node, str(found))
        return await self._fit(ref, node, found)

    async def _tell_adopted(self, ref: NodeRef, node: NodeRecord, found: str) -> None:
        await self._state_writer.emit(
            EventDraft(
                type=EventType.NODE_ADOPTED,
                lab=ref.lab,
                node=ref.node,
                data={
                    "found": found,
                    "recorded": str(node.state),
                    "pid": node.process.pid if node.process else None,
                },
            )
        )

    async def _gone(self, ref: NodeRef, node: NodeRecord, gone: NodeGone) -> None:
        if node.state in {NodeState.STARTING, NodeState.STOPPING}:
            await self._stopped(ref, f"its QEMU ended {_AWAY}", "ended-while-away")
            return
        await self._state_writer.move(
            ref,
            NodeState.CRASHED,
            reason=f"its QEMU ended {_AWAY}: {gone.message}",
            data={**gone.details, "cause": "ended-while-away"},
            process=None,
        )

    async def _stopped(self, ref: NodeRef, reason: str, cause: str) -> None:
        await self._state_writer.move(
            ref, NodeState.STOPPED, reason=reason, data={"cause": cause}, process=None
        )

    async def _fit(self, ref: NodeRef, node: NodeRecord, found: RunState) -> bool:
        """Bring the record of an adopted node in line with what QEMU says."""
        if found is RunState.SHUTDOWN:
            self._watcher.powered_off(node.key, _AWAY)  # its end is heard by the watcher, too
            why = f"the guest powered off {_AWAY}"
            return not await self._end(ref, node, why, "guest-poweroff")
        if node.state is NodeState.STARTING:
            # It was never let go, or its start was not committed: undone here, done anew by the
            # operation that goes on.
            return not await self._end(ref, node, _NOT_STARTED, "start-failed")
        if node.state is NodeState.STOPPING:
            return True  # the operation that goes on will end it
        if found is RunState.PANICKED:
            await self._state_writer.move(
                ref, NodeState.PANICKED, reason=f"the guest panicked {_AWAY}"
            )
        elif found in {RunState.PAUSED, RunState.IO_ERROR, RunState.PRELAUNCH}:
            await self._state_writer.move(ref, NodeState.PAUSED, reason=f"paused {_AWAY}")
        elif node.state in {NodeState.PAUSED, NodeState.UNRESPONSIVE, NodeState.PANICKED}:
            await self._state_writer.move(
                ref, NodeState.RUNNING, reason=f"runs again {_AWAY}", event=EventType.NODE_RESUMED
            )
            self._watcher.boots_again(ref)
        elif node.state is NodeState.RUNNING:
            self._watcher.boots_again(ref)
        return True

    async def _end(self, ref: NodeRef, node: NodeRecord, reason: str, cause: str) -> bool:
        """End a node's QEMU; tell whether it did end. Where it cannot, the node is stopping."""
        try:
            await self._adapters.nodes.kill(node.key)
        except NodeStuck as error:
            await self._runner.left_stuck(ref, error)
            return False
        await self._stopped(ref, reason, cause)
        return True

    async def _sweep(self, nodes: Sequence[NodeRecord]) -> None:
        """Remove namespaces, folders and image files that belong to nothing."""
        labs = await self._adapters.inventory.labs()
        members = await self._adapters.inventory.pool_members()
        own = {lab.key for lab in labs} | {member.key for member in members}
        wanted = {self._adapters.namespace_of(key) for key in own}
        await self._recover_uplinks(labs)
        await self._serving.recover(labs)
        for namespace in await self._adapters.networks.namespaces():
            if namespace not in wanted:
                log.warning("removing namespace %s: it belongs to no lab", namespace)
                try:
                    await self._adapters.networks.remove(namespace)
                except WorldError as error:
                    log.warning("namespace %s stays: %s", namespace, error)
        for key in set(await self._adapters.keys.all()) - own:
            await self._adapters.keys.remove(key)
        keys = {node.key for node in nodes}
        await self._adapters.storage.sweep(keys)
        await quick(_remove_all_but, self._adapters.run / "n", keys)
        images = await self._adapters.inventory.images()
        await self._sweep_checkpoints(nodes)
        for digest in await self._adapters.images.sweep([image.digest for image in images]):
            log.info("removed leftover image files %s", digest)

    async def _recover_uplinks(self, labs: Sequence[LabRecord]) -> None:
        """Sweep, and load the rules of every lab anew: others may have flushed them meanwhile."""
        try:
            gone = await self._adapters.uplinks.sweep(self._adapters.namespace(lab) for lab in labs)
        except WorldError as error:
            log.warning("uplinks of labs that are no more cannot be looked for: %s", error)
            return
        for namespace in gone:
            log.warning("removed the uplinks of %s: it belongs to no lab", namespace)
        there = set(await self._adapters.networks.namespaces())
        for lab in labs:
            plan = self._adapters.network_plan(lab, {})
            if plan.uplinks is None or plan.namespace not in there:
                continue
            try:
                await self._adapters.uplinks.apply(plan)
            except LabdError as error:
                log.warning("the uplinks of lab %s are as they were: %s", lab.name, error)

    async def _sweep_checkpoints(self, nodes: Sequence[NodeRecord]) -> None:
        """Remove checkpoints that were half made, and layers that nothing stands on."""
        store = self._adapters.checkpoints
        layers: set[str] = set()
        records = await self._adapters.inventory.checkpoints()
        for record in records:
            layers |= layers_of(record)
        for node in nodes:
            layers |= references(node.machine, store.digest_of)
        for name in await store.sweep([record.key for record in records], layers):
            log.info("removed what was left of checkpoint %s", name)

    async def _go_on(self) -> int:
        resumed = 0
        newest: dict[str, str] = {}
        for operation in await self._adapters.inventory.operations(limit=10_000):
            newest.setdefault(operation.lab, operation.id)
        for operation in await self._adapters.inventory.operations(running=True, limit=10_000):
            try:
                over = await self._is_over(operation, newest)
            except LabdError as error:
                await self._operations.finish(operation, error)
                continue
            if over:
                await self._operations.finish(operation, None)
                continue
            log.info("going on with %s of lab %s (%s)", operation.kind, operation.lab, operation.id)
            self._operations.resume(operation, self._operations.work_of(operation.kind))
            resumed += 1
        return resumed

    async def _is_over(self, operation: OperationRecord, newest: Mapping[str, str]) -> bool:
        """True if an operation of an earlier daemon has done all, False if it must be carried on.

        Args:
            operation: Without an outcome.
            newest: Lab -> id of its newest operation.

        Raises:
            LabdError: It has failed, or cannot be carried on; tells why.
        """
        lab = operation.lab
        if lab and newest[lab] != operation.id:
            # Its outcome could not be written, and others have had the lab since.
            raise Superseded(f"{operation.kind} of lab {lab} was not ended")
        request = operation.request_as(Request)
        if not self._operations.handles(operation.kind):
            raise WorldError("labd was restarted meanwhile; ask for it again")
        if await self._adapters.inventory.lab(lab) is not None:
            return False
        # Only `destroy`, or the undoing of `up`, ends with no lab.
        if operation.kind is OperationKind.DESTROY:
            return True
        undoing = request.undoing if isinstance(request, Starting) else ""
        why = undoing or f"lab {lab} is no more"
        raise WorldError(f"{why} (taken back before a restart of labd)")


def _remove_all_but(folder: Path, keep: set[str]) -> None:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name not in keep:
            shutil.rmtree(entry, ignore_errors=True)
