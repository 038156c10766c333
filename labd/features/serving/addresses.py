"""The addresses that nodes really have: of the agent, a lease, or the neighbour table."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.model.errors import LabdError
from labd.model.records import NodeRecord
from labd.model.serving import AddressSource, NodeAddress
from labd.model.specs import NodeSpec
from labd.model.states import NodeState

_DEADLINE = 1.0  # seconds for one guest
_AT_ONCE = 64  # guests that are asked at one time
_ASKED = {NodeState.RUNNING, NodeState.READY}


class Addresses:
    """Finds the addresses that nodes really have."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def of(self, lab: str) -> Sequence[NodeAddress]:
        """Return the addresses of a lab's running nodes, and who says so.

        Each node's guest agent is asked first, then the leases, then the kernel's neighbour table;
        a guest that does not answer within a second holds up no other.

        Raises:
            NotFound: There is no such lab.
        """
        record = await self._state_writer.lab(lab)
        nodes = {node.name: node for node in await self._adapters.inventory.nodes(lab)}
        running = [
            (spec, nodes[spec.name])
            for spec in record.spec.nodes
            if spec.name in nodes and nodes[spec.name].state in _ASKED
        ]
        if not running:
            return []
        leases = [(row.mac, row.address) for row in await self._adapters.inventory.leases(lab)]
        seen = await self._neighbours(self._adapters.namespace(record))
        told = await asyncio.gather(*(self._told(spec, node) for spec, node in running))
        found: list[NodeAddress] = []
        for (spec, _), answer in zip(running, told, strict=True):
            found += (
                answer
                or _by_mac(spec, leases, AddressSource.LEASE)
                or _by_mac(spec, seen, AddressSource.NEIGHBOUR)
            )
        return found

    async def _neighbours(self, namespace: str) -> list[tuple[str, str]]:
        try:
            seen = await self._adapters.servers.neighbours(namespace)
        except LabdError:
            return []  # it goes down just now
        return [(item.mac, item.address) for item in seen]

    async def _told(self, spec: NodeSpec, node: NodeRecord) -> list[NodeAddress]:
        names = {nic.mac: nic.name for nic in spec.nics}
        try:
            async with self._slots:
                interfaces = await self._adapters.nodes.interfaces(node.key).interfaces(
                    node.key, _DEADLINE
                )
        except LabdError:
            return []  # it has no agent, or hangs
        return [
            NodeAddress(
                node=spec.name,
                nic=names.get(interface.mac, ""),
                mac=interface.mac,
                address=address,
                source=AddressSource.AGENT,
            )
            for interface in interfaces
            for address in interface.addresses
        ]


def _by_mac(
    spec: NodeSpec, known: Iterable[tuple[str, str]], source: AddressSource
) -> list[NodeAddress]:
    names = {nic.mac: nic.name for nic in spec.nics}
    return [
        NodeAddress(node=spec.name, nic=names[mac], mac=mac, address=address, source=source)
        for mac, address in known
        if mac in names and not ipaddress.ip_address(address).is_link_local
    ]
