"""The contract of the inventory: rows, transactions, the outbox of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.events import Event, EventDraft
from labd.model.images import Image, Profile
from labd.model.lab_leases import LabLease
from labd.model.links import LinkRecord
from labd.model.people import TokenRecord
from labd.model.pools import WarmMember, WarmPoolRecord
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)


class Transaction(Protocol):
    """One atomic change: rows and the events that tell of them."""

    async def put_lab(self, lab: LabRecord) -> None:
        """Insert or replace."""

    async def delete_lab(self, name: str) -> None:
        """Delete with all its nodes."""

    async def put_node(self, node: NodeRecord) -> None:
        """Insert or replace."""

    async def delete_node(self, lab: str, name: str) -> None:
        """Delete."""

    async def put_operation(self, operation: OperationRecord) -> None:
        """Insert or replace."""

    async def put_image(self, image: Image) -> None:
        """Insert; a name that exists is replaced."""

    async def delete_image(self, name: str) -> None:
        """Delete."""

    async def put_profile(self, profile: Profile) -> None:
        """Insert or replace."""

    async def delete_profile(self, name: str) -> None:
        """Delete."""

    async def put_checkpoint(self, record: CheckpointRecord) -> None:
        """Insert."""

    async def delete_checkpoint(self, name: str) -> None:
        """Delete."""

    async def put_lab_lease(self, lease: LabLease) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_lab_lease(self, lab: str) -> None:
        """Delete."""

    async def put_class(self, record: ClassRecord) -> None:
        """Insert or replace."""

    async def delete_class(self, name: str) -> None:
        """Delete."""

    async def put_pool(self, record: WarmPoolRecord) -> None:
        """Insert or replace."""

    async def delete_pool(self, checkpoint: str) -> None:
        """Delete; its members stay."""

    async def put_pool_member(self, record: WarmMember) -> None:
        """Insert or replace."""

    async def delete_pool_member(self, key: str) -> None:
        """Delete."""

    async def put_token(self, token: TokenRecord) -> None:
        """Insert or replace; it goes with the last of its labs, if it is for labs."""

    async def delete_token(self, name: str) -> None:
        """Delete."""

    async def put_plugin(self, plugin: PluginRecord) -> None:
        """Insert or replace."""

    async def put_publication(self, publication: PublicationRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_publication(self, publication: PublicationRecord) -> None:
        """Delete."""

    async def put_lease(self, lease: LeaseRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_lease(self, lease: LeaseRecord) -> None:
        """Delete."""

    async def put_link(self, link: LinkRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_link(self, link: LinkRecord) -> None:
        """Delete."""

    async def emit(self, draft: EventDraft) -> Event:
        """Number the happening and put it in the outbox."""

    def on_commit(self, then: Callable[[], object]) -> None:
        """Call `then` if, and only if, this change is committed.

        It is called as the rows become visible, before a cancellation of the task or anything else
        can come in between. An undo of what the rows refer to is disarmed by it: an exception that
        leaves the block does not say whether the change was committed. `then` does not block and
        does not raise.
        """


class Inventory(Protocol):
    """What labd wants and last knew, and the outbox.

    Reads see committed rows, and in the task that holds a transaction also what it wrote so far.

    Every call raises `StorageFailed` when the database does.
    """

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back on any exception (also cancellation).

        One at a time; others wait. Followers are woken after the commit. A cancellation that comes
        as it commits leaves the block when the commit is over, and the change stands; see
        `Transaction.on_commit`. When the block is left, reads say whether it was committed.
        """

    async def host_id(self) -> str:
        """Return the id of this root, 8 hex digits, made once."""

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs by name."""

    async def lab(self, name: str) -> LabRecord | None:
        """Return one lab."""

    async def nodes(self, lab: str | None = None) -> Sequence[NodeRecord]:
        """Return the nodes of one lab, or of all, in the order of lab and name."""

    async def node(self, lab: str, name: str) -> NodeRecord | None:
        """Return one node."""

    async def node_by_key(self, key: str) -> NodeRecord | None:
        """Return the node whose machine has this key."""

    async def operations(
        self, *, running: bool = False, limit: int = 100
    ) -> Sequence[OperationRecord]:
        """Return operations, the newest first."""

    async def operation(self, id: str) -> OperationRecord | None:
        """Return one operation."""

    async def images(self) -> Sequence[Image]:
        """Return all images by name."""

    async def image(self, name: str) -> Image | None:
        """Return one image by name."""

    async def profiles(self) -> Sequence[Profile]:
        """Return all profiles by name."""

    async def profile(self, name: str) -> Profile | None:
        """Return one profile."""

    async def checkpoints(self) -> Sequence[CheckpointRecord]:
        """Return all checkpoints by name."""

    async def lab_leases(self) -> Sequence[LabLease]:
        """Return the leases of all labs by name."""

    async def lab_lease(self, lab: str) -> LabLease | None:
        """Return the lease of a lab."""

    async def classes(self) -> Sequence[ClassRecord]:
        """Return all classes by name."""

    async def pools(self) -> Sequence[WarmPoolRecord]:
        """Return all pools by key of their checkpoint."""

    async def pool_members(self) -> Sequence[WarmMember]:
        """Return the members of all pools, the oldest first."""

    async def token(self, hash: str) -> TokenRecord | None:
        """Return the token with this sha256."""

    async def tokens(self) -> Sequence[TokenRecord]:
        """Return the tokens of all people by name."""

    async def plugins(self) -> Sequence[PluginRecord]:
        """Return all plugin rows by name."""

    async def publications(self, lab: str) -> Sequence[PublicationRecord]:
        """Return the published ports of a lab, in the order of node and port."""

    async def leases(self, lab: str) -> Sequence[LeaseRecord]:
        """Return the addresses given out in a lab, as they were told last."""

    async def links(self, lab: str) -> Sequence[LinkRecord]:
        """Return what was said of the links of a lab."""

    async def events(self, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with `seq > after` in order."""

    async def first_seq(self) -> int:
        """Return the lowest seq that is still kept (older ones were pruned), 1 when none."""

    async def last_seq(self) -> int:
        """Return the highest seq, 0 when none."""

    async def published_seq(self) -> int:
        """Return the seq up to which the broker has acknowledged."""

    async def mark_published(self, seq: int) -> None:
        """Remember it (monotonic)."""

    async def wait_events(self, after: int) -> int:
        """Return the last seq as soon as it is above `after`."""

    async def integrity(self) -> Sequence[str]:
        """Return what the database says is wrong with itself; empty when nothing is."""

    async def close(self) -> None:
        """Close the database."""
