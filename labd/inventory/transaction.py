"""One atomic change of the inventory on SQLite (`Transaction` in `labd.core.ports`).

It gathers changes in memory, and what readers will see after them; `SqliteInventory` writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from labd.inventory import lease_rows, rows
from labd.inventory.database import Statement
from labd.inventory.tables import Tables
from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.events import Event, EventDraft
from labd.model.images import Image, Profile
from labd.model.lab_leases import LabLease
from labd.model.links import LinkRecord
from labd.model.people import Asked, Outcome, Owned, TokenRecord, asked_now
from labd.model.pools import WarmMember, WarmPoolRecord
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)

_KEEP_OPERATIONS = 1_000  # finished ones


class SqliteTransaction:
    """One atomic change; made by `SqliteInventory.transaction`.

    A constraint that is broken (a second node with one uid) is told at the end of the block.
    """

    def __init__(self, before: Tables, seq: int, source: str, clock: Callable[[], str]) -> None:
        self.tables = before.copy()
        self._before = before
        self.statements: list[Statement] = []
        self.event_statements: list[Statement] = []
        self.events: list[Event] = []
        self._then: list[Callable[[], object]] = []
        self._seq = seq
        self._source = source
        self._clock = clock

    async def put_lab(self, lab: LabRecord) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_lab(lab, self.tables.labs.get(lab.name)))
        self.tables.labs[lab.name] = lab

    async def delete_lab(self, name: str) -> None:
        """Delete with all its nodes."""
        self.statements.append(("DELETE FROM labs WHERE name=?", (name,)))
        self.tables.delete_lab(name)
        for token in list(self.tables.tokens.values()):
            left = tuple(lab for lab in token.labs if lab.name != name)
            if token.labs and not left:
                await self.delete_token(token.name)
            elif left != token.labs:
                await self.put_token(replace(token, labs=left))

    async def put_node(self, node: NodeRecord) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_node(node, self.tables.put_node(node)))

    async def delete_node(self, lab: str, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM nodes WHERE lab=? AND name=?", (lab, name)))
        self.tables.delete_node(lab, name)

    async def put_operation(self, operation: OperationRecord) -> None:
        """Insert or replace. Of the finished ones the newest 1,000 are kept."""
        new = operation.id not in self.tables.operations
        self.statements.append(rows.put_operation(operation))
        self.tables.operations[operation.id] = operation
        if new and len(self.tables.operations) > _KEEP_OPERATIONS:
            for old in self.tables.finished_operations()[:-_KEEP_OPERATIONS]:
                self.statements.append(("DELETE FROM operations WHERE id=?", (old,)))
                del self.tables.operations[old]

    async def put_image(self, image: Image) -> None:
        """Insert; a name that exists is replaced."""
        self.statements.append(rows.put_image(image))
        self.tables.images[image.name] = image

    async def delete_image(self, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM images WHERE name=?", (name,)))
        self.tables.images.pop(name, None)

    async def put_profile(self, profile: Profile) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_profile(profile))
        self.tables.profiles[profile.name] = profile

    async def delete_profile(self, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM profiles WHERE name=?", (name,)))
        self.tables.profiles.pop(name, None)

    async def put_checkpoint(self, record: CheckpointRecord) -> None:
        """Insert."""
        self.statements.append(rows.put_checkpoint(record))
        self.tables.checkpoints[record.name] = record

    async def delete_checkpoint(self, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM checkpoints WHERE name=?", (name,)))
        self.tables.checkpoints.pop(name, None)

    async def put_lab_lease(self, lease: LabLease) -> None:
        """Insert or replace; it goes with its lab."""
        self.statements.append(rows.put_lab_lease(lease))
        self.tables.lab_leases[lease.lab] = lease

    async def delete_lab_lease(self, lab: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM lab_leases WHERE lab=?", (lab,)))
        self.tables.lab_leases.pop(lab, None)

    async def put_class(self, record: ClassRecord) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_class(record))
        self.tables.classes[record.name] = record

    async def delete_class(self, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM classes WHERE name=?", (name,)))
        self.tables.classes.pop(name, None)

    async def put_pool(self, record: WarmPoolRecord) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_pool(record))
        self.tables.pools[record.checkpoint] = record

    async def delete_pool(self, checkpoint: str) -> None:
        """Delete; its members stay."""
        self.statements.append(("DELETE FROM pools WHERE checkpoint=?", (checkpoint,)))
        self.tables.pools.pop(checkpoint, None)

    async def put_pool_member(self, record: WarmMember) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_pool_member(record))
        self.tables.pool_members[record.key] = record

    async def delete_pool_member(self, key: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM pool_members WHERE key=?", (key,)))
        self.tables.pool_members.pop(key, None)

    async def put_token(self, token: TokenRecord) -> None:
        """Insert or replace; it goes with the last of its labs, if it is for labs."""
        self.statements.append(rows.put_token(token))
        self.tables.tokens[token.name] = token

    async def delete_token(self, name: str) -> None:
        """Delete."""
        self.statements.append(("DELETE FROM tokens WHERE name=?", (name,)))
        self.tables.tokens.pop(name, None)

    async def put_plugin(self, plugin: PluginRecord) -> None:
        """Insert or replace."""
        self.statements.append(rows.put_plugin(plugin))
        self.tables.plugins[plugin.name] = plugin

    async def put_publication(self, publication: PublicationRecord) -> None:
        """Insert or replace; it goes with its lab."""
        self.statements.append(rows.put_publication(publication))
        self.tables.publications[rows.publication_key(publication)] = publication

    async def delete_publication(self, publication: PublicationRecord) -> None:
        """Delete."""
        self.statements.append(rows.delete_publication(publication))
        self.tables.publications.pop(rows.publication_key(publication), None)

    async def put_lease(self, lease: LeaseRecord) -> None:
        """Insert or replace; it goes with its lab."""
        self.statements.append(lease_rows.put_lease(lease))
        self.tables.leases[lease_rows.lease_key(lease)] = lease

    async def delete_lease(self, lease: LeaseRecord) -> None:
        """Delete."""
        self.statements.append(lease_rows.delete_lease(lease))
        self.tables.leases.pop(lease_rows.lease_key(lease), None)

    async def put_link(self, link: LinkRecord) -> None:
        """Insert or replace; it goes with its lab."""
        self.statements.append(rows.put_link(link))
        self.tables.links[rows.link_key(link)] = link

    async def delete_link(self, link: LinkRecord) -> None:
        """Delete."""
        self.statements.append(rows.delete_link(link))
        self.tables.links.pop(rows.link_key(link), None)

    async def emit(self, draft: EventDraft) -> Event:
        """Number the happening and put it in the outbox."""
        seq = self._seq + len(self.events) + 1
        of = self.tables.of(draft) or self._before.of(draft) or Owned()
        statement, event = rows.put_event(seq, self._clock(), self._source, draft, of)
        self.event_statements.append(statement)
        self.events.append(event)
        return event

    def on_commit(self, then: Callable[[], object]) -> None:
        """Call `then` if, and only if, this change is committed; see the port."""
        self._then.append(then)

    def committed(self) -> None:
        """Call what waits for the commit."""
        for then in self._then:
            then()

    async def sign(self) -> Asked | None:
        """Tell who asked for this change, if it is the first of a request; return the request."""
        self._attribute()
        asked = asked_now()
        if asked is None or not asked.pending:
            return None
        operation = next((e.draft.operation for e in self.events if e.draft.operation), "")
        await self.emit(asked.draft(Outcome.ACCEPTED, operation))
        return asked

    def _attribute(self) -> None:
        """Say whose it was also of what was told before there was a row to tell by."""
        for index, event in enumerate(self.events):
            of = None if event.owner or event.lab_key else self.tables.of(event.draft)
            if of is not None and of != Owned():
                self.event_statements[index], self.events[index] = rows.put_event(
                    event.seq, event.time, self._source, event.draft, of
                )
