"""The inventory on SQLite: the adapter of `Inventory` and `Transaction` in `labd.core.ports`.

A transaction gathers its changes in memory and writes them at its end, in one go: BEGIN IMMEDIATE,
rows, events, COMMIT. Until then nothing has touched the database, so that leaving the block by an
exception or a cancellation is a rollback by doing nothing. What readers see is swapped after the
commit.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from labd.host.threads import TransactionBody, WaitInTransaction, quick
from labd.inventory import rows
from labd.inventory.database import Database, damaged, to_the_end
from labd.inventory.tables import Tables
from labd.inventory.transaction import SqliteTransaction
from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.errors import InventoryDamaged
from labd.model.events import Event
from labd.model.images import Image, Profile
from labd.model.lab_leases import LabLease
from labd.model.links import LinkRecord
from labd.model.people import Asked, TokenRecord
from labd.model.pools import WarmMember, WarmPoolRecord
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)
from labd.model.states import OperationState

log = logging.getLogger(__name__)

KEEP_EVENTS = 100_000
_PRUNE = 1_000  # events deleted at one time: 1-2 ms
_RECENT = 4_096  # events kept in memory for those who follow


def utc_now() -> str:
    """Return the time as RFC 3339 UTC with microseconds."""
    now = dt.datetime.now(dt.UTC)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


class SqliteInventory:
    """What labd wants and last knew, and the outbox. Make it by `open`, end it by `close`.

    Reads by the task that holds the transaction see its changes; all others see committed rows.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        host: str,
        bounds: tuple[int, int, int],
        clock: Callable[[], str],
        keep_events: int,
        *,
        strict: bool = False,
    ) -> None:
        self._database = database
        self._tables = tables
        self._host = host
        self._first, self._last, self._published = bounds
        self._clock = clock
        self._keep = keep_events
        self._strict = strict
        self._recent: deque[Event] = deque(maxlen=_RECENT)
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None
        self._held: SqliteTransaction | None = None
        self._news = asyncio.Event()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], str] = utc_now,
        keep_events: int = KEEP_EVENTS,
        copied: bool = True,
        strict: bool = False,
    ) -> SqliteInventory:
        """Open or make the inventory at `path`.

        Args:
            path: The file; `:memory:` for one that ends with the process.
            clock: Gives the time of events, RFC 3339 UTC with microseconds.
            keep_events: Published events that are kept.
            copied: Keep a second inventory beside it; see `inventory.copies`.
            strict: Refuse a transaction in which its task has waited for anything; else it is
                logged. For tests, which hold every transaction to it.

        Raises:
            StorageFailed: It cannot be opened, or was written by a newer labd.
            InventoryDamaged: It is not what a labd has written.
        """
        database = await Database.open(path, copied=copied)
        try:
            meta = dict(await database.rows(rows.SELECT_META))
            host = meta.get("host_id")
            if host is None:
                host = secrets.token_hex(4)
                await database.write([rows.put_meta("host_id", host)])
            try:
                tables = await Tables.load(database)
            except (ValueError, KeyError, TypeError) as error:
                why = str(error).splitlines()[0]
                raise InventoryDamaged(damaged(path, f"a row cannot be read: {why}")) from error
            first, last = (await database.rows(rows.SELECT_EVENT_BOUNDS))[0]
            await database.copy()
        except BaseException:
            await database.close()
            raise
        bounds = (first or 1, last or 0, int(meta.get("published", "0")))
        return cls(database, tables, host, bounds, clock, keep_events, strict=strict)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """Begin; commit at the end of the block, roll back on any exception or cancellation.

        One at a time; others wait. So the block waits for nothing: what it reads is in memory, and
        what must be asked of disks, machines or anybody else is asked before. A cancellation that
        comes while SQLite commits takes effect after it: the change stands, and
        `Transaction.on_commit` has told so.

        Raises:
            StorageFailed: Nothing was changed.
            WaitInTransaction: A fault of labd; see `labd.host.threads`. Nothing was changed.
        """
        task = asyncio.current_task()
        if task is not None and task is self._holder:
            raise RuntimeError("a transaction inside a transaction of the same task never begins")
        async with self._lock:
            source = f"/labd/{self._host}"
            tx = SqliteTransaction(self._tables, self._last, source, self._clock)
            self._holder, self._held = task, tx
            body = TransactionBody()
            try:
                yield tx
                body.end()
                if body.suspended:
                    self._tell_waited(tx, body)
                if tx.statements or tx.event_statements:
                    asked = await tx.sign()
                    await to_the_end(self._commit(tx, asked))
                else:
                    tx.committed()
            finally:
                body.end()
                self._holder = self._held = None

    def _tell_waited(self, tx: SqliteTransaction, body: TransactionBody) -> None:
        kinds = ", ".join(str(event.draft.type) for event in tx.events) or "no event"
        text = f"a transaction ({kinds}) gave way to other tasks for {body.seconds:.3f} s, and "
        if self._strict:
            raise WaitInTransaction(f"{text}no transaction may wait for anything")
        log.warning("%severy change of any lab waited: a fault of labd", text)

    async def _commit(self, tx: SqliteTransaction, asked: Asked | None) -> None:
        await self._database.write([*tx.statements, *tx.event_statements])
        if asked is not None:
            asked.told = True
        self._tables = tx.tables
        tx.committed()
        if tx.events:
            self._recent.extend(tx.events)
            self._last = tx.events[-1].seq
            self._news.set()
            self._news = asyncio.Event()

    def _view(self) -> Tables:
        if self._held is not None and asyncio.current_task() is self._holder:
            return self._held.tables
        return self._tables

    async def host_id(self) -> str:
        """Return the id of this root, 8 hex digits, made once."""
        return self._host

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs by name."""
        labs = self._view().labs
        return [labs[name] for name in sorted(labs)]

    async def lab(self, name: str) -> LabRecord | None:
        """Return one lab."""
        return self._view().labs.get(name)

    async def nodes(self, lab: str | None = None) -> Sequence[NodeRecord]:
        """Return the nodes of one lab, or of all, in the order of lab and name."""
        return self._view().nodes_of(lab)

    async def node(self, lab: str, name: str) -> NodeRecord | None:
        """Return one node."""
        return self._view().nodes.get(lab, {}).get(name)

    async def node_by_key(self, key: str) -> NodeRecord | None:
        """Return the node whose machine has this key."""
        view = self._view()
        address = view.keys.get(key)
        return view.nodes[address[0]][address[1]] if address is not None else None

    async def operations(
        self, *, running: bool = False, limit: int = 100
    ) -> Sequence[OperationRecord]:
        """Return operations, the newest first."""
        found = (
            operation
            for operation in reversed(self._view().operations.values())
            if not running or operation.state is OperationState.RUNNING
        )
        return list(islice(found, limit))

    async def operation(self, id: str) -> OperationRecord | None:
        """Return one operation."""
        return self._view().operations.get(id)

    async def images(self) -> Sequence[Image]:
        """Return all images by name."""
        images = self._view().images
        return [images[name] for name in sorted(images)]

    async def image(self, name: str) -> Image | None:
        """Return one image by name."""
        return self._view().images.get(name)

    async def profiles(self) -> Sequence[Profile]:
        """Return all profiles by name."""
        profiles = self._view().profiles
        return [profiles[name] for name in sorted(profiles)]

    async def profile(self, name: str) -> Profile | None:
        """Return one profile."""
        return self._view().profiles.get(name)

    async def checkpoints(self) -> Sequence[CheckpointRecord]:
        """Return all checkpoints by name."""
        checkpoints = self._view().checkpoints
        return [checkpoints[name] for name in sorted(checkpoints)]

    async def lab_leases(self) -> Sequence[LabLease]:
        """Return the leases of all labs by name."""
        leases = self._view().lab_leases
        return [leases[lab] for lab in sorted(leases)]

    async def lab_lease(self, lab: str) -> LabLease | None:
        """Return the lease of a lab."""
        return self._view().lab_leases.get(lab)

    async def classes(self) -> Sequence[ClassRecord]:
        """Return all classes by name."""
        found = self._view().classes
        return [found[name] for name in sorted(found)]

    async def pools(self) -> Sequence[WarmPoolRecord]:
        """Return all pools by key of their checkpoint."""
        found = self._view().pools
        return [found[key] for key in sorted(found)]

    async def pool_members(self) -> Sequence[WarmMember]:
        """Return the members of all pools, the oldest first."""
        return list(self._view().pool_members.values())

    async def token(self, hash: str) -> TokenRecord | None:
        """Return the token with this sha256."""
        found = self._view().tokens.values()
        return next((token for token in found if token.hash == hash), None)

    async def tokens(self) -> Sequence[TokenRecord]:
        """Return the tokens of all people by name."""
        found = self._view().tokens
        return [found[name] for name in sorted(found)]

    async def plugins(self) -> Sequence[PluginRecord]:
        """Return all plugin rows by name."""
        plugins = self._view().plugins
        return [plugins[name] for name in sorted(plugins)]

    async def publications(self, lab: str) -> Sequence[PublicationRecord]:
        """Return the published ports of a lab, in the order of node and port."""
        found = self._view().publications
        return [found[key] for key in sorted(found) if key[0] == lab]

    async def leases(self, lab: str) -> Sequence[LeaseRecord]:
        """Return the addresses given out in a lab, in the order of their text."""
        found = self._view().leases
        return [found[key] for key in sorted(found) if key[0] == lab]

    async def links(self, lab: str) -> Sequence[LinkRecord]:
        """Return what was said of the links of a lab."""
        found = self._view().links
        return [found[key] for key in sorted(found) if key[0] == lab]

    async def events(self, after: int, limit: int = 500) -> Sequence[Event]:
        """Return committed events with `seq > after` in order, from memory when they are recent.

        Raises:
            StorageFailed: The database did.
        """
        after = max(after, 0)
        if after >= self._last:
            return []
        if self._recent and after + 1 >= self._recent[0].seq:
            start = after + 1 - self._recent[0].seq
            return list(islice(self._recent, start, start + limit))
        # The bound keeps out what a commit on its way has inserted already.
        found = await self._database.rows(rows.SELECT_EVENTS, (after, self._last, limit))
        return [rows.event_of(row, f"/labd/{self._host}") for row in found]

    async def first_seq(self) -> int:
        """Return the lowest seq that is still kept (older ones were pruned), 1 when none."""
        return self._first

    async def last_seq(self) -> int:
        """Return the highest seq, 0 when none."""
        return self._last

    async def published_seq(self) -> int:
        """Return the seq up to which the broker has acknowledged."""
        return self._published

    async def mark_published(self, seq: int) -> None:
        """Remember it (monotonic), and prune what is published and beyond the kept number.

        Raises:
            StorageFailed: Nothing was changed.
        """
        async with self._lock:
            seq = min(seq, self._last)
            if seq > self._published:
                await to_the_end(self._mark(seq))

    async def _mark(self, seq: int) -> None:
        statements = [rows.put_meta("published", str(seq))]
        # The newest event always stays: the next number is read from it.
        spare = min(seq, self._last - max(self._keep, 1)) - self._first + 1
        first = self._first + min(spare, _PRUNE) if spare >= min(_PRUNE, self._keep) else None
        if first is not None:
            statements.append(("DELETE FROM events WHERE seq < ?", (first,)))
        await self._database.write(statements)
        self._published = seq
        self._first = first or self._first

    async def wait_events(self, after: int) -> int:
        """Return the last seq as soon as it is above `after`."""
        while self._last <= after:
            await self._news.wait()
        return self._last

    async def take_disk_reserve(self) -> None:
        """Take the room by which labd can still write on a full disk; see `disk_reserve.py`."""
        await self._database.take_ballast()
        async with self._lock:
            await self._database.copy()

    async def integrity(self) -> Sequence[str]:
        """Return what SQLite says is wrong (PRAGMA quick_check); at most 100 lines."""
        return await self._database.check()

    async def close(self) -> None:
        """Close the database, after the transaction that is on its way."""
        async with self._lock:
            await self._database.close()


async def damage_of(path: Path) -> str | None:
    """Tell what is wrong with the inventory at `path`; None when a labd can work with it.

    Raises:
        StorageFailed: It cannot be looked at, or is of a newer labd.
    """
    if not await quick(path.exists):
        return f"there is no inventory {path}"
    try:
        inventory = await SqliteInventory.open(path, copied=False)
    except InventoryDamaged as error:
        return error.message
    await inventory.close()
    return None
