"""Ports of the host that lead to nodes, as templates ask for: there while the lab is up.

What is listened at is told by rows (`PublicationRecord`), so that the next daemon takes the same
ports again. Doors themselves end with the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from labd.core.adapters import Adapters
from labd.drivers.network.port import PublishedPort
from labd.features.connect import ConnectService
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.inventory.port import Inventory
from labd.model.errors import InputError, LabdError
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.publish import Bound, endpoint, format_publish
from labd.model.records import LabRecord, PublicationRecord
from labd.model.specs import LabSpec, PublishSpec

_EVERY = 60.0  # seconds between two events of one lab
_NAMED = 10  # nodes that an event names


class Refusals:
    """Emits `lab.connections-refused`: the first at once, what comes later together.

    Args:
        inventory: Takes the events.
        tasks: Run what emits them.
        every: Seconds between two events of one lab.
    """

    def __init__(self, inventory: Inventory, tasks: TaskSupervisor, every: float = _EVERY) -> None:
        self._supervisor = tasks
        self._inventory = inventory
        self._every = every
        self._counts: dict[str, Counter[tuple[str, Bound]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def count(self, ref: NodeRef, bound: Bound) -> None:
        """Count a connection to a node that was refused because of a bound."""
        self._counts.setdefault(ref.lab, Counter())[ref.node, bound] += 1
        if ref.lab not in self._tasks:
            self._tasks[ref.lab] = self._supervisor.spawn("refusals", self._emit(ref.lab))

    async def _emit(self, lab: str) -> None:
        try:
            while (counts := self._counts.pop(lab, None)) is not None:
                try:
                    await self._write(lab, counts)
                except LabdError as error:
                    log.warning("lab %s refused %d connections: %s", lab, counts.total(), error)
                await asyncio.sleep(self._every)
        finally:
            self._tasks.pop(lab, None)

    async def _write(self, lab: str, counts: Counter[tuple[str, Bound]]) -> None:
        nodes = sorted({node for node, _ in counts})
        data: dict[str, object] = {
            "count": counts.total(),
            "bounds": sorted({str(bound) for _, bound in counts}),
            "nodes": nodes[:_NAMED],
        }
        async with self._inventory.transaction() as tx:
            if await self._inventory.lab(lab) is not None:
                kind = EventType.LAB_CONNECTIONS_REFUSED
                await tx.emit(EventDraft(type=kind, lab=lab, data=data))

    async def close(self) -> None:
        """Stop; what was counted since the last event goes to the log."""
        await cancel_all(list(self._tasks.values()))
        for lab, counts in self._counts.items():
            log.info("lab %s refused %d connections since the last event", lab, counts.total())


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Wish:
    """One entry of `publish` of a node of a lab."""

    ref: NodeRef
    spec: PublishSpec


def _wishes(name: str, spec: LabSpec) -> list[_Wish]:
    return [_Wish(NodeRef(name, node.name), item) for node in spec.nodes for item in node.publish]


class Publications:
    """Opens and closes the ports of labs. Whoever calls it holds the lab."""

    def __init__(self, adapters: Adapters, connect: ConnectService) -> None:
        self._adapters = adapters
        self._connect = connect
        self._published_ports: dict[_Wish, PublishedPort] = {}
        self._refusals = Refusals(adapters.inventory, adapters.tasks)

    async def reserve(self, name: str, spec: LabSpec) -> list[_Wish]:
        """Take the ports that a lab would need and has not; return what was taken now.

        They are open from here on, so that nobody else gets them before the lab is up.

        Raises:
            InputError: One is in use; nothing is taken.
        """
        taken: list[_Wish] = []
        try:
            remembered = await self._remembered(name)
            for wish in _wishes(name, spec):
                if wish not in self._published_ports:
                    self._published_ports[wish] = self._open(wish, remembered.get(wish))
                    taken.append(wish)
        except BaseException:
            await self.release(taken)
            raise
        return taken

    async def release(self, taken: list[_Wish]) -> None:
        """Close what `reserve` took: the lab does not come up."""
        for wish in taken:
            opened = self._published_ports.pop(
                wish, None
            )  # None: an operation has closed it meanwhile
            if opened is not None:
                await opened.close()

    async def _remembered(self, name: str) -> Mapping[_Wish, PublicationRecord]:
        found = await self._adapters.inventory.publications(name)
        return {_Wish(NodeRef(row.lab, row.node), row.spec): row for row in found}

    def _open(self, wish: _Wish, row: PublicationRecord | None) -> PublishedPort:
        """Open a port: for a wish of 0 the one that it had last, if that is free."""
        spec = wish.spec

        async def dial() -> socket.socket:
            return await self._connect.to_node(wish.ref, spec.port)

        def listen(port: int) -> PublishedPort:
            return self._adapters.published_ports.open(
                spec.address,
                port,
                dial,
                lab=wish.ref.lab,
                refused=partial(self._refusals.count, wish.ref),
            )

        if row is not None and not spec.host_port:
            try:
                return listen(row.chosen)
            except InputError as error:
                log.info("%s: another port is chosen: %s", wish.ref, error)
        try:
            return listen(spec.host_port)
        except InputError as error:
            raise InputError(
                f"node {wish.ref.node}: publish {format_publish(spec)}: {error.message}",
                **error.details,
            ) from error

    async def sync(self, lab: LabRecord, operation: str = "") -> None:
        """Have exactly the ports of the lab's spec open, and tell what changed (idempotent).

        Raises:
            InputError: One is in use by now.
        """
        await self.reserve(lab.name, lab.spec)
        rows = await self._remembered(lab.name)
        wanted = _wishes(lab.name, lab.spec)
        gone = [wish for wish in {*rows, *self._of(lab.name)} if wish not in wanted]
        news = {}
        for wish in wanted:
            row = PublicationRecord(
                lab=lab.name,
                node=wish.ref.node,
                spec=wish.spec,
                chosen=self._published_ports[wish].port,
            )
            if rows.get(wish) != row:
                news[wish] = row
        await self._forget(gone, rows, operation)
        if news:
            async with self._adapters.inventory.transaction() as tx:
                for row in news.values():
                    await tx.put_publication(row)
                    await tx.emit(_told(EventType.NODE_PUBLISHED, row, operation))

    def _of(self, name: str) -> list[_Wish]:
        return [wish for wish in self._published_ports if wish.ref.lab == name]

    async def _forget(
        self,
        gone: list[_Wish],
        rows: Mapping[_Wish, PublicationRecord],
        operation: str,
        reason: str = "",
    ) -> None:
        for wish in gone:
            opened = self._published_ports.pop(wish, None)
            if opened is not None:
                await opened.close()
        if not any(wish in rows for wish in gone):
            return
        async with self._adapters.inventory.transaction() as tx:
            for wish in gone:
                if wish in rows:
                    await tx.delete_publication(rows[wish])
                    told = _told(EventType.NODE_UNPUBLISHED, rows[wish], operation)
                    data = {**told.data, "reason": reason} if reason else told.data
                    await tx.emit(replace(told, data=data))

    async def close_lab(self, name: str, operation: str = "") -> None:
        """Close all ports of a lab (idempotent)."""
        rows = await self._remembered(name)
        await self._forget(list({*rows, *self._of(name)}), rows, operation)

    async def restore(self, lab: LabRecord) -> None:
        """Open again what a lab had under the daemon before; what cannot be had is told."""
        for wish, row in (await self._remembered(lab.name)).items():
            if wish in self._published_ports:
                continue
            try:
                opened = self._open(wish, row)
            except LabdError as error:
                log.warning("lab %s: %s", lab.name, error)
                await self._forget([wish], {wish: row}, "", error.message)
                continue
            self._published_ports[wish] = opened
            if opened.port != row.chosen:
                now = replace(row, chosen=opened.port)
                async with self._adapters.inventory.transaction() as tx:
                    await tx.put_publication(now)
                    await tx.emit(_told(EventType.NODE_PUBLISHED, now, ""))

    async def close(self) -> None:
        """Close everything, and keep the rows for the next daemon."""
        await self.release(list(self._published_ports))
        await self._refusals.close()


def _told(kind: EventType, row: PublicationRecord, operation: str) -> EventDraft:
    return EventDraft(
        type=kind,
        lab=row.lab,
        node=row.node,
        operation=operation,
        data={
            "address": row.spec.address,
            "host_port": row.chosen,
            "port": row.spec.port,
            "endpoint": endpoint(row.spec.address, row.chosen),
        },
    )
