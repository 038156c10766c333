"""Labs as people see them: the rows, the bridges that are there, and what belongs to them."""

from __future__ import annotations

from collections.abc import Sequence

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.features.labs.views import LabView, NetworkView
from labd.features.leases import Leasing
from labd.model.errors import NotFound
from labd.model.names import did_you_mean
from labd.model.records import LabRecord, NodeRecord, by_lab
from labd.model.states import NetworkState


class LabOverview:
    """Shows labs. Changes nothing."""

    def __init__(self, adapters: Adapters, operations: Operations, leases: Leasing) -> None:
        self._adapters = adapters
        self._inventory = adapters.inventory
        self._operations = operations
        self._leases = leases

    async def all(self) -> Sequence[tuple[LabRecord, Sequence[NodeRecord]]]:
        """Return all labs with their nodes."""
        nodes = by_lab(await self._inventory.nodes())
        return [(lab, nodes.get(lab.name, [])) for lab in await self._inventory.labs()]

    async def get(self, name: str) -> LabView:
        """Return one lab."""
        lab = await self._inventory.lab(name)
        if lab is None:
            names = [other.name for other in await self._inventory.labs()]
            raise NotFound(f"there is no lab {name}{did_you_mean(name, names)}")
        nodes = await self._inventory.nodes(name)
        plan = self._adapters.network_plan(lab, {node.name: node for node in nodes})
        there = set(await self._adapters.networks.bridges(plan.namespace))
        specs = {net.name: net for net in lab.spec.networks}
        networks = tuple(
            NetworkView(
                name=bridge.network,
                bridge=bridge.bridge,
                state=NetworkState.UP if bridge.bridge in there else NetworkState.DOWN,
                subnet=specs[bridge.network].subnet,
                uplink=specs[bridge.network].uplink,
                members=tuple(
                    f"{node.name}/{nic.name}"
                    for node in lab.spec.nodes
                    for nic in node.nics
                    if nic.network == bridge.network
                ),
            )
            for bridge in plan.bridges
        )
        return LabView(
            lab=lab,
            nodes=tuple(nodes),
            networks=networks,
            operation=self._operations.holder(name),
            published=tuple(await self._inventory.publications(name)),
            lease=await self._leases.find(name),
        )
