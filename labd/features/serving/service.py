"""What labd serves in labs: leases become rows and events, and so do the ends of servers.

The lease file of a server is the truth and the rows are what was told last. They are compared when
a server is taken over and at each change, so that nothing is missed while labd is away, and nothing
is told twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.host.supervision import cancel_all
from labd.inventory.port import Transaction
from labd.model.errors import LabdError
from labd.model.events import EventDraft, EventType
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, LeaseRecord, Wanted
from labd.model.serving import Lease, ServerChange, ServerState
from labd.model.specs import LabSpec

log = logging.getLogger(__name__)

# Seconds of rest for each lease that was told: a guest that floods fills no database.
_REST = 0.05
_MOST_REST = 10.0
_TOLD = {
    ServerState.ENDED: EventType.NETWORK_SERVER_ENDED,
    ServerState.RESTORED: EventType.NETWORK_SERVER_RESTORED,
}


def lease_records(lab: str, spec: LabSpec, leases: Iterable[Lease]) -> list[LeaseRecord]:
    """Return leases with whose they are. Pure."""
    owners = {nic.mac: (node.name, nic.name) for node in spec.nodes for nic in node.nics}
    subnets = [
        (ipaddress.ip_network(text), network.name)
        for network in spec.networks
        for text in (network.subnet, network.subnet6)
        if text
    ]
    found = []
    for lease in leases:
        address = ipaddress.ip_address(lease.address)
        node, nic = owners.get(lease.mac, ("", ""))
        network = next((name for subnet, name in subnets if address in subnet), "")
        found.append(
            LeaseRecord(
                lab=lab,
                address=str(address),
                network=network,
                mac=lease.mac,
                name=lease.name,
                node=node,
                nic=nic,
            )
        )
    return found


class Serving:
    """Applies, follows and removes the servers of labs."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._changes: asyncio.Queue[ServerChange] = asyncio.Queue()
        self._due: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        adapters.servers.listen(self._changes.put_nowait)

    async def run(self) -> None:
        """Tell what happens to servers, for ever."""
        while True:
            change = await self._changes.get()
            if change.state is ServerState.LEASES:
                self._look(change.namespace)
                continue
            with suppress(LabdError):
                await self._tell(change)

    async def close(self) -> None:
        """Stop following; servers run on."""
        tasks = list(self._due.values())
        await cancel_all(tasks)
        await self._adapters.servers.close()

    async def _tell(self, change: ServerChange) -> None:
        lab = await self._lab(change.namespace)
        if lab is None:
            return
        data = {"server": "dnsmasq", **({"reason": change.reason} if change.reason else {})}
        await self._state_writer.emit(EventDraft(type=_TOLD[change.state], lab=lab.name, data=data))

    async def _lab(self, namespace: str) -> LabRecord | None:
        labs = await self._adapters.inventory.labs()
        return next((lab for lab in labs if self._adapters.namespace(lab) == namespace), None)

    def _look(self, namespace: str) -> None:
        """Have the leases of a lab compared, now or when it has rested."""
        if namespace in self._due:
            self._again.add(namespace)
            return
        self._due[namespace] = self._adapters.tasks.spawn("serving", self._compare(namespace))

    async def _compare(self, namespace: str) -> None:
        try:
            told = 20
            try:
                with self._adapters.tasks.contained("serving") as block:
                    told = await self._sync(namespace)
                again = block.failed
            except LabdError as error:
                log.warning("leases of %s are not written: %s", namespace, error)
                again = True
            if again:
                self._again.add(namespace)
            await asyncio.sleep(min(told * _REST, _MOST_REST))
        finally:
            self._due.pop(namespace, None)
        if namespace in self._again:
            self._again.discard(namespace)
            self._look(namespace)

    async def _sync(self, namespace: str) -> int:
        """Write what differs between the server's leases and the rows; return how much did."""
        found = await self._adapters.servers.leases(namespace)
        lab = await self._lab(namespace)
        if lab is None or lab.wanted is not Wanted.RUNNING:
            return 0
        now = {item.address: item for item in lease_records(lab.name, lab.spec, found)}
        rows = {item.address: item for item in await self._adapters.inventory.leases(lab.name)}
        gone = [row for address, row in rows.items() if address not in now]
        new = [item for address, item in now.items() if rows.get(address) != item]
        if not gone and not new:
            return 0
        async with self._adapters.inventory.transaction() as tx:
            if await self._adapters.inventory.lab(lab.name) is None:
                return 0
            await _forget(tx, gone)
            for item in new:
                await tx.put_lease(item)
                await tx.emit(_told(EventType.NETWORK_LEASE, item))
        return len(gone) + len(new)

    # labs

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Have what a plan serves; its bridges are there."""
        await self._adapters.servers.apply(plan)

    async def remove(self, lab: LabRecord, operation: str = "") -> None:
        """End what a lab serves, and forget its leases (idempotent)."""
        namespace = self._adapters.namespace(lab)
        await self._adapters.servers.remove(namespace)
        rows = await self._adapters.inventory.leases(lab.name)
        if rows:
            async with self._adapters.inventory.transaction() as tx:
                await _forget(tx, rows, operation)

    async def recover(self, labs: Iterable[LabRecord]) -> None:
        """Take over the servers of labs that are up, and end those of labs that are no more.

        A server that cannot be had holds up neither labd nor other labs.
        """
        labs = list(labs)
        for key in await self._adapters.servers.sweep(
            self._adapters.namespace(lab) for lab in labs
        ):
            log.warning("removed the dnsmasq of lab key %s: it belongs to no lab", key)
        there = set(await self._adapters.networks.namespaces())
        for lab in labs:
            plan = self._adapters.network_plan(lab, {})
            if plan.namespace not in there or lab.wanted is not Wanted.RUNNING:
                continue
            missing = {b.bridge for b in plan.bridges} - set(
                await self._adapters.networks.bridges(plan.namespace)
            )
            if plan.server is None or missing:
                continue  # an operation that goes on will make it
            try:
                await self._adapters.servers.apply(plan)
            except LabdError as error:
                log.warning("lab %s is without addresses and names: %s", lab.name, error)


async def _forget(tx: Transaction, rows: Iterable[LeaseRecord], operation: str = "") -> None:
    for row in rows:
        await tx.delete_lease(row)
        await tx.emit(_told(EventType.NETWORK_LEASE_ENDED, row, operation))


def _told(kind: EventType, row: LeaseRecord, operation: str = "") -> EventDraft:
    data: Mapping[str, object] = {
        "network": row.network,
        "address": row.address,
        "mac": row.mac,
        "name": row.name,
        "nic": row.nic,
    }
    return EventDraft(type=kind, lab=row.lab, node=row.node, operation=operation, data=data)
