"""Stopping and removing: nodes, networks, whole labs. Doing it twice changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from labd.core.adapters import Adapters
from labd.core.gather import gather_all
from labd.core.state_writer import StateWriter
from labd.features.labs.runner import Eraser, NodeRunner
from labd.features.links import LinkService
from labd.features.publish import Publications
from labd.features.serving import Serving
from labd.model.errors import LabdError, NetworkFailed
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationRecord
from labd.model.states import NODE_ALIVE, LabState, NodeState

log = logging.getLogger(__name__)


class Teardown:
    """Takes down what runs, and removes what shall be no more."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        runner: NodeRunner,
        publications: Publications,
        serving: Serving,
        links: LinkService,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._runner = runner
        self._publications = publications
        self._serving = serving
        self._links = links

    async def take_down(
        self, name: str, operation: OperationRecord, *, force: bool, grace: float
    ) -> None:
        """Stop every node, then remove the networks. Disks are kept."""
        await self._publications.close_lab(name, operation.id)
        nodes = await self._adapters.inventory.nodes(name)
        if force:
            await self._unplug(await self._state_writer.lab(name), nodes)
        await gather_all(
            self._runner.stop(NodeRef(name, n.name), operation.id, force=force, grace=grace)
            for n in nodes
        )
        await self._remove_networks(await self._state_writer.lab(name), operation)
        await self._state_writer.settle(name, operation.id)

    async def _unplug(self, lab: LabRecord, nodes: Iterable[NodeRecord]) -> None:
        """Take the taps of machines away that are about to be ended, all in one go."""
        if any(node.state in NODE_ALIVE for node in nodes):
            try:
                await self._adapters.networks.unplug(self._adapters.namespace(lab))
            except NetworkFailed as error:
                log.info("lab %s: its taps go with its machines: %s", lab.name, error)

    async def _remove_networks(self, lab: LabRecord, operation: OperationRecord) -> None:
        namespace = self._adapters.namespace(lab)
        there = set(await self._adapters.networks.bridges(namespace))
        self._adapters.captures.end_all(namespace, f"lab {lab.name} is down")
        await self._serving.remove(lab, operation.id)
        await self._adapters.uplinks.remove(namespace)
        await self._adapters.networks.remove(namespace)
        if there:
            await self._tell_networks_down(lab, [n.name for n in lab.spec.networks], operation)

    async def destroy(self, name: str, operation: OperationRecord) -> None:
        """Remove everything of a lab; its rows go last, so that it can be done again.

        Raises:
            NodeStuck: The QEMU of a node does not end; all other nodes are ended.
        """
        lab = await self._adapters.inventory.lab(name)
        if lab is None:
            return
        await self._publications.close_lab(name, operation.id)
        nodes = await self._adapters.inventory.nodes(name)
        # Not unplugged: QEMUs that are killed together close their taps together (50 of them took
        # 0.08 to 0.16 s with all that is theirs; to take the taps away first took 0.23 to 0.26 s).
        await self._erase(name, nodes, operation)
        await self._remove_networks(lab, operation)
        await self._adapters.keys.remove(lab.key)
        nodes = await self._adapters.inventory.nodes(name)
        async with self._adapters.inventory.transaction() as tx:
            for node in nodes:
                await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
            await tx.delete_lab(name)
            data = {"from": str(LabState.DESTROYING), "to": str(LabState.DESTROYED)}
            await tx.emit(
                EventDraft(
                    type=EventType.LAB_DESTROYED, lab=name, operation=operation.id, data=data
                )
            )
        self._links.forget(name)
        self._state_writer.wake(name)

    async def _erase(
        self, name: str, nodes: Sequence[NodeRecord], operation: OperationRecord
    ) -> None:
        """Erase nodes of a lab at one time.

        When one stays, the rows of the others say that they ended.

        Raises:
            NodeStuck: A QEMU does not end; the files of its node stay.
        """
        await self._runner.begin_end(name, nodes, operation.id)
        eraser = Eraser(self._runner)
        try:
            await gather_all(eraser.erase(node) for node in nodes)
        except LabdError:
            await self._state_writer.move_all(
                name,
                [node.name for node in eraser.ended],
                NodeState.STOPPED,
                operation=operation.id,
                data={"cause": "requested"},
                unless={NodeState.CRASHED},
                process=None,
            )
            raise

    async def remove_left_out(
        self, name: str, operation: OperationRecord, *, networks: bool = True
    ) -> None:
        """Remove nodes and, with `networks`, networks that the spec does not have."""
        lab = await self._state_writer.lab(name)
        kept = {node.name for node in lab.spec.nodes}
        gone = [n for n in await self._adapters.inventory.nodes(name) if n.name not in kept]
        await self._erase(name, gone, operation)
        if gone:
            async with self._adapters.inventory.transaction() as tx:
                for node in await self._adapters.inventory.nodes(name):  # as they are by now
                    if node.name in kept:
                        continue
                    await tx.delete_node(name, node.name)
                    await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
                await self._state_writer.derive(tx, name, operation.id, over=True)
            self._state_writer.wake(name)
        if not networks:
            return
        nodes = {node.name: node for node in await self._adapters.inventory.nodes(name)}
        plan = self._adapters.network_plan(lab, nodes)
        await self._adapters.uplinks.apply(plan)
        await self._adapters.networks.apply(plan)
        await self._serving.apply(plan)
        old = {net.name for net in lab.previous.networks} if lab.previous else set()
        await self._tell_networks_down(
            lab, sorted(old - {net.name for net in lab.spec.networks}), operation
        )

    async def _tell_networks_down(
        self, lab: LabRecord, networks: Iterable[str], operation: OperationRecord
    ) -> None:
        async with self._adapters.inventory.transaction() as tx:
            for network in networks:
                await tx.emit(
                    EventDraft(
                        type=EventType.NETWORK_DOWN,
                        lab=lab.name,
                        subject=network,
                        operation=operation.id,
                    )
                )

    async def stop_nodes(
        self,
        lab: str,
        names: Iterable[str],
        operation: OperationRecord,
        *,
        force: bool,
        grace: float,
    ) -> None:
        """Stop some nodes at one time."""
        await gather_all(
            self._runner.stop(NodeRef(lab, name), operation.id, force=force, grace=grace)
            for name in names
        )
        await self._state_writer.settle(lab, operation.id)

    async def undo_starts(
        self,
        name: str,
        operation: OperationRecord,
        *,
        before: set[str],
        only: Collection[str] | None,
    ) -> None:
        """Stop the nodes that did not run before; used when a start in an old lab failed.

        Args:
            name: Of the lab.
            operation: That failed.
            before: Names of the nodes that ran before it.
            only: Names of the nodes that it was to start; None for all.
        """
        await gather_all(
            self._runner.stop(NodeRef(name, node.name), operation.id, force=True)
            for node in await self._adapters.inventory.nodes(name)
            if node.name not in before and (only is None or node.name in only)
        )


def _node_event(kind: EventType, node: NodeRecord, operation: OperationRecord) -> EventDraft:
    return EventDraft(
        type=kind,
        lab=node.lab,
        node=node.name,
        operation=operation.id,
        data={"from": str(node.state)},
    )
