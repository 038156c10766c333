"""Members of warm pools: made like forks, up to the moment in which their CPUs would run.

A member has the keys of the lab that it becomes, and with them its namespace, folders and users.
So taking it moves rows, and nothing of the kernel's.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import replace

from labd.core.adapters import Adapters, new_key
from labd.core.gather import gather_all
from labd.core.snapshot import SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.core.taps import close_taps
from labd.features.checkpoints import ForkedNode, Forking
from labd.features.labs import Labs, Watcher
from labd.host.threads import quick
from labd.inventory.port import Transaction
from labd.model.checkpoints import CheckpointRecord
from labd.model.errors import LabdError, NodeGone
from labd.model.events import EventDraft, EventType
from labd.model.machine import RunState
from labd.model.pools import KEPT, READY, MemberState, WarmMember
from labd.model.process import ProcessId
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.specs import LabSpec
from labd.model.states import LabState, NodeState

log = logging.getLogger(__name__)


def pseudo_lab(member: WarmMember, spec: LabSpec) -> LabRecord:
    """Return what a member would be as a lab, for plans; there is no such row."""
    return LabRecord(
        name=member.label,
        key=member.key,
        spec=spec,
        wanted=Wanted.RUNNING,
        state=LabState.STARTING,
        origin=member.checkpoint,
    )


class WarmMembers:
    """Makes, takes, ends and recovers members.

    Attributes:
        hung: Keys of machines that do not answer now; their members are not taken.
    """

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        labs: Labs,
        loader: SnapshotLoader,
        forking: Forking,
        watcher: Watcher,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._labs = labs
        self._loader = loader
        self._forking = forking
        self._watcher = watcher
        self.hung: set[str] = set()

    async def find(self, key: str) -> WarmMember | None:
        """Return a member."""
        members = await self._adapters.inventory.pool_members()
        return next((member for member in members if member.key == key), None)

    async def of(
        self, checkpoint: str, states: Collection[MemberState] = tuple(MemberState)
    ) -> list[WarmMember]:
        """Return the members of the pool of a checkpoint (its key), the oldest first."""
        return [
            member
            for member in await self._adapters.inventory.pool_members()
            if member.checkpoint == checkpoint and member.state in states
        ]

    # making

    async def make(self, record: CheckpointRecord, spec: LabSpec) -> None:
        """Make one member, if its pool needs one.

        Args:
            record: From what.
            spec: Of the lab that it becomes.

        Raises:
            LabdError: It could not be made; nothing of it is left.
        """
        member = WarmMember(
            key=new_key(),
            checkpoint=record.key,
            state=MemberState.MAKING,
            nodes=(),
            created=self._adapters.clock(),
        )
        async with self._adapters.inventory.transaction() as tx:
            if not await self._due(record.key):
                return
            nodes = tuple(await self._labs.new_nodes(member.label, spec, set()))
            member = replace(member, nodes=nodes)
            await tx.put_pool_member(member)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.end, member.key)
            member = replace(member, nodes=await self._load(record, member, spec))
            await self._write_ready(record, member, undo.pop_all)

    async def _due(self, checkpoint: str) -> bool:
        """True if the pool of a checkpoint has not its size yet."""
        sizes = {pool.checkpoint: pool.size for pool in await self._adapters.inventory.pools()}
        return len(await self.of(checkpoint, KEPT)) < sizes.get(checkpoint, 0)

    async def _load(
        self, record: CheckpointRecord, member: WarmMember, spec: LabSpec
    ) -> tuple[NodeRecord, ...]:
        snapshot = await self._loader.of(pseudo_lab(member, spec), member.nodes)
        await self._adapters.networks.apply(snapshot.network)
        await self._adapters.checkpoints.verify(record)
        copies = [self._forking.copy_of(record, snapshot, node) for node in member.nodes]
        taps = await self._adapters.networks.open_taps(
            snapshot.network, [node.key for node in member.nodes]
        )
        found: dict[str, ProcessId] = {}
        try:
            await gather_all(self._start(record, copy, taps, found) for copy in copies)
        finally:
            close_taps(taps)
        return tuple(
            replace(
                copy.record,
                state=NodeState.PAUSED,
                machine=copy.machine,
                process=found[copy.record.name],
            )
            for copy in copies
        )

    async def _start(
        self,
        record: CheckpointRecord,
        copy: ForkedNode,
        taps: dict[str, dict[str, int]],
        found: dict[str, ProcessId],
    ) -> None:
        found[copy.record.name] = await self._forking.launch(record, copy, taps)
        await self._adapters.nodes.snapshots(copy.machine.key).loaded(copy.machine.key)

    async def _write_ready(
        self, record: CheckpointRecord, member: WarmMember, then: Callable[[], object]
    ) -> None:
        async with self._adapters.inventory.transaction() as tx:
            tx.on_commit(then)
            await tx.put_pool_member(replace(member, state=MemberState.READY))
            pools = {pool.checkpoint: pool for pool in await self._adapters.inventory.pools()}
            ready = await self.of(record.key, READY)
            pool = pools.get(record.key)
            if pool is not None and len(ready) == pool.size:
                data = {"size": pool.size}
                await tx.emit(EventDraft(type=EventType.POOL_READY, subject=record.name, data=data))

    # taking

    async def take(
        self, tx: Transaction, record: CheckpointRecord, spec: LabSpec, name: str
    ) -> tuple[str, list[NodeRecord]] | None:
        """Take the oldest member that fits out of its pool, inside a transaction of the caller's.

        Args:
            tx: The transaction.
            record: The checkpoint.
            spec: Of the lab.
            name: Of the lab.

        Returns:
            Key of the lab, and its nodes with machines and processes; None when there is none.
        """
        if not _same_ground(record.spec, spec):
            return None
        for member in await self.of(record.key, READY):
            if any(node.key in self.hung for node in member.nodes):
                continue
            await tx.delete_pool_member(member.key)
            nodes = [
                replace(
                    node,
                    lab=name,
                    state=NodeState.STOPPED,  # as every node that no operation has started yet
                    since=self._adapters.clock(),
                    machine=node.machine and replace(node.machine, lab=name),
                )
                for node in member.nodes
            ]
            return member.key, nodes
        return None

    async def welcome(
        self,
        tx: Transaction,
        record: CheckpointRecord,
        lab: LabRecord,
        nodes: list[NodeRecord],
        operation: OperationRecord,
    ) -> None:
        """Write the nodes of a member that became a lab; the lab and its nodes are there."""
        for node in nodes:
            await self._state_writer.move_new(tx, node, NodeState.STARTING, operation.id, starts=1)
        for bridge in self._adapters.network_plan(lab, {}).bridges:
            data = {"bridge": bridge.bridge, "namespace": self._adapters.namespace(lab)}
            await tx.emit(
                EventDraft(
                    type=EventType.NETWORK_UP,
                    lab=lab.name,
                    subject=bridge.network,
                    operation=operation.id,
                    data=data,
                )
            )
        await tx.emit(
            EventDraft(
                type=EventType.POOL_TAKEN,
                lab=lab.name,
                subject=record.name,
                operation=operation.id,
                data={"left": len(await self.of(record.key, READY))},
            )
        )

    # ending

    async def end(self, key: str) -> bool:
        """End a member and remove everything of it; tell whether there was one (idempotent).

        Raises:
            LabdError: Something stays; the row too, so that it can be done again.
        """
        async with self._adapters.inventory.transaction() as tx:
            member = await self.find(key)
            if member is None:
                return False  # somebody took it
            if member.state is not MemberState.ENDING:
                await tx.put_pool_member(replace(member, state=MemberState.ENDING))
        await gather_all(self._erase(node) for node in member.nodes)
        await self._adapters.networks.remove(self._adapters.namespace_of(member.key))
        await self._adapters.keys.remove(member.key)
        async with self._adapters.inventory.transaction() as tx:
            await tx.delete_pool_member(key)
        return True

    async def _erase(self, node: NodeRecord) -> None:
        await self._adapters.nodes.kill(node.key)
        if node.machine is not None:
            await self._adapters.nodes.forget(node.machine)
        await self._adapters.storage.discard(node.key)
        run = self._adapters.run / "n" / node.key
        await quick(shutil.rmtree, run, ignore_errors=True)
        self.hung.discard(node.key)
        self._watcher.drop(node.key)

    # after a death

    async def recover(self) -> None:
        """Adopt what an earlier daemon has kept ready, and end the rest."""
        pools = {pool.checkpoint for pool in await self._adapters.inventory.pools()}
        outcomes = await asyncio.gather(
            *(
                self._recover(member, wanted=member.checkpoint in pools)
                for member in await self._adapters.inventory.pool_members()
            )
        )
        if stay := sum(outcomes):
            log.info("%d forks stand ready in warm pools", stay)

    async def _recover(self, member: WarmMember, *, wanted: bool) -> bool:
        try:
            if wanted and member.state is MemberState.READY:
                await gather_all(self._adopt(node) for node in member.nodes)
                return True
        except LabdError as error:
            log.info("a member of a pool is made anew: %s", error)
        try:
            await self.end(member.key)
        except LabdError as error:
            log.warning("%s cannot be removed: %s", member.label, error)
        return False

    async def _adopt(self, node: NodeRecord) -> None:
        if node.machine is None or node.process is None:
            raise NodeGone(f"{node.lab}/{node.name} was never started")
        state = await self._adapters.nodes.adopt(node.machine, node.process)
        if state is not RunState.PAUSED:
            raise NodeGone(f"{node.lab}/{node.name} is {state}")


def _same_ground(saved: LabSpec, wanted: LabSpec) -> bool:
    """True if a lab has the networks and NICs with which members were made."""
    return saved.networks == wanted.networks and [
        (node.name, node.nics) for node in saved.nodes
    ] == [(node.name, node.nics) for node in wanted.nodes]
