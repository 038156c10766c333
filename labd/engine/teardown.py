"""Stopping and removing: nodes, networks, whole labs. Doing it twice changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from labd.engine.journal import Journal
from labd.engine.publications import Publications
from labd.engine.runner import NodeRunner
from labd.engine.serving import Serving
from labd.engine.together import every
from labd.engine.wires import WireService
from labd.engine.world import World
from labd.model.errors import NetworkFailed
from labd.model.events import EventType, Happening
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationRecord
from labd.model.states import NODE_ALIVE, LabState

log = logging.getLogger(__name__)


class Teardown:
    """Takes down what runs, and removes what shall be no more."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        runner: NodeRunner,
        publications: Publications,
        serving: Serving,
        wires: WireService,
    ) -> None:
        self._world = world
        self._journal = journal
        self._runner = runner
        self._publications = publications
        self._serving = serving
        self._wires = wires

    async def take_down(
        self, name: str, operation: OperationRecord, *, force: bool, grace: float
    ) -> None:
        """Stop every node, then remove the networks. Disks are kept."""
        await self._publications.close_lab(name, operation.id)
        nodes = await self._world.inventory.nodes(name)
        if force:
            await self._unplug(await self._journal.lab(name), nodes)
        await every(
            self._runner.stop(NodeRef(name, n.name), operation.id, force=force, grace=grace)
            for n in nodes
        )
        await self._remove_networks(await self._journal.lab(name), operation)
        await self._journal.settle(name, operation.id)

    async def _unplug(self, lab: LabRecord, nodes: Iterable[NodeRecord]) -> None:
        """Take the taps of machines away that are about to be ended, all in one go."""
        if any(node.state in NODE_ALIVE for node in nodes):
            try:
                await self._world.networks.unplug(self._world.namespace(lab))
            except NetworkFailed as error:
                log.info("lab %s: its taps go with its machines: %s", lab.name, error)

    async def _remove_networks(self, lab: LabRecord, operation: OperationRecord) -> None:
        namespace = self._world.namespace(lab)
        there = set(await self._world.networks.bridges(namespace))
        self._world.captures.end_all(namespace, f"lab {lab.name} is down")
        await self._serving.remove(lab, operation.id)
        await self._world.uplinks.remove(namespace)
        await self._world.networks.remove(namespace)
        if there:
            await self._tell_networks_down(lab, [n.name for n in lab.spec.networks], operation)

    async def destroy(self, name: str, operation: OperationRecord) -> None:
        """Remove everything of a lab; its rows go last, so that it can be done again."""
        lab = await self._world.inventory.lab(name)
        if lab is None:
            return
        await self._publications.close_lab(name, operation.id)
        nodes = await self._world.inventory.nodes(name)
        await self._unplug(lab, nodes)
        await every(self._runner.erase(node, operation.id) for node in nodes)
        await self._remove_networks(lab, operation)
        await self._world.keys.remove(lab.key)
        nodes = await self._world.inventory.nodes(name)
        async with self._world.inventory.transaction() as tx:
            for node in nodes:
                await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
            await tx.delete_lab(name)
            data = {"from": str(LabState.DESTROYING), "to": str(LabState.DESTROYED)}
            await tx.emit(
                Happening(type=EventType.LAB_DESTROYED, lab=name, operation=operation.id, data=data)
            )
        self._wires.forget(name)
        self._journal.wake(name)

    async def remove_left_out(
        self, name: str, operation: OperationRecord, *, networks: bool = True
    ) -> None:
        """Remove nodes and, unless the lab is down, networks that the spec does not have."""
        lab = await self._journal.lab(name)
        kept = {node.name for node in lab.spec.nodes}
        gone = [n for n in await self._world.inventory.nodes(name) if n.name not in kept]
        await every(self._runner.erase(node, operation.id) for node in gone)
        if gone:
            async with self._world.inventory.transaction() as tx:
                for node in await self._world.inventory.nodes(name):  # as they are by now
                    if node.name in kept:
                        continue
                    await tx.delete_node(name, node.name)
                    await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
                await self._journal.derive(tx, name, operation.id, over=True)
            self._journal.wake(name)
        if not networks:
            return
        nodes = {node.name: node for node in await self._world.inventory.nodes(name)}
        plan = self._world.network_plan(lab, nodes)
        await self._world.uplinks.apply(plan)
        await self._world.networks.apply(plan)
        await self._serving.apply(plan)
        old = {net.name for net in lab.previous.networks} if lab.previous else set()
        await self._tell_networks_down(
            lab, sorted(old - {net.name for net in lab.spec.networks}), operation
        )

    async def _tell_networks_down(
        self, lab: LabRecord, networks: Iterable[str], operation: OperationRecord
    ) -> None:
        async with self._world.inventory.transaction() as tx:
            for network in networks:
                await tx.emit(
                    Happening(
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
        await every(
            self._runner.stop(NodeRef(lab, name), operation.id, force=force, grace=grace)
            for name in names
        )
        await self._journal.settle(lab, operation.id)

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
        await every(
            self._runner.stop(NodeRef(name, node.name), operation.id, force=True)
            for node in await self._world.inventory.nodes(name)
            if node.name not in before and (only is None or node.name in only)
        )


def _node_event(kind: EventType, node: NodeRecord, operation: OperationRecord) -> Happening:
    return Happening(
        type=kind,
        lab=node.lab,
        node=node.name,
        operation=operation.id,
        data={"from": str(node.state)},
    )
