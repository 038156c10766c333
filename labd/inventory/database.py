"""One SQLite connection: pragmas, migrations, and sqlite3's errors as `StorageFailed`.

There is exactly one connection for the life of the daemon: the WAL-reset bug of SQLite before
3.51.3 (https://www.sqlite.org/wal.html#walresetbug) needs two.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import aiosqlite

from labd.host.threads import quick
from labd.inventory.copies import Copies, is_lost, newest_event
from labd.inventory.disk_reserve import DiskReserve
from labd.model.errors import InventoryDamaged, StorageFailed

Statement = tuple[str, Sequence[object]]

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql\Z")
_MEMORY = ":memory:"
_ROWS_AT_ONCE = 64  # that a cursor fetches ahead; aiosqlite's own default
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})  # primary result codes


def damaged(path: Path, why: object) -> str:
    """Return what to say of a damaged inventory."""
    return (
        f"the inventory {path} is damaged: {why}; machines run on: stop labd where it runs, and "
        "`lab fsck --rebuild` makes the inventory anew from its copy and from what runs"
    )


def known_migrations() -> dict[int, str]:
    """Return number -> SQL text of the migrations in the package, in order."""
    found: dict[int, str] = {}
    for entry in resources.files("labd.inventory.migrations").iterdir():
        match = _NUMBER.match(entry.name)
        if match is not None:
            found[int(match.group(1))] = entry.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection, for which a transaction is one trip to its thread.

    On a busy host each trip waits twice for a CPU, and a commit has up to five statements.
    """

    async def transact(
        self, statements: Sequence[Statement], note: Callable[[Sequence[Statement]], None] | None
    ) -> None:
        """Do statements in one transaction, all or none. Runs of the same SQL are one batch.

        `note` is called in the thread with what was committed, and must not fail.
        """
        await self._execute(self._transact, statements, note)  # type: ignore[no-untyped-call]

    def _transact(
        self, statements: Sequence[Statement], note: Callable[[Sequence[Statement]], None] | None
    ) -> None:
        try:
            for sql, run in groupby(statements, key=itemgetter(0)):
                self._conn.executemany(sql, [values for _, values in run])
            self._conn.commit()
        except BaseException:
            self._conn.rollback()
            raise
        if note is not None:
            note(statements)


class Database:
    """The connection; `path` may be `:memory:`. Use `open`, then `close`."""

    def __init__(self, path: Path, connection: _Connection, *, copied: bool = True) -> None:
        self._path = path
        self._connection = connection
        self._copies = Copies(path) if copied and str(path) != _MEMORY else None
        self._disk_reserve = DiskReserve(
            None if str(path) == _MEMORY else path.with_name("reserve")
        )

    @classmethod
    async def open(cls, path: Path, *, copied: bool = True) -> Database:
        """Open or make the file (mode 0600) and bring its schema up to date.

        WAL with `synchronous=FULL`: a commit is on the disk when it returns.

        Raises:
            StorageFailed: It cannot be opened, or is of a newer labd.
            InventoryDamaged: It is no inventory, or has bad pages.
        """
        if copied and str(path) != _MEMORY and await quick(is_lost, path):
            # An empty one in its place would have labd end all machines as strangers.
            raise InventoryDamaged(damaged(path, "it is not there, and its copy is"))
        with _storage_errors(path, "opening it"):
            if str(path) != _MEMORY:
                await quick(_make_private, path)

            def connect() -> sqlite3.Connection:
                # IMMEDIATE: the module begins each write with BEGIN IMMEDIATE.
                return sqlite3.connect(path, isolation_level="IMMEDIATE", timeout=5.0)

            connection = _Connection(connect, _ROWS_AT_ONCE)
            await connection
        database = cls(path, connection, copied=copied)
        try:
            await database._prepare()
        except BaseException:
            await connection.close()
            raise
        await database.take_ballast()
        return database

    async def _prepare(self) -> None:
        with _storage_errors(self._path, "opening it"):
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                await self._connection.execute_fetchall(f"PRAGMA {pragma}")
            if problems := await self.check():
                raise InventoryDamaged(damaged(self._path, problems[0]))
            version = int((await self.rows("PRAGMA user_version"))[0][0])
            known = known_migrations()
            newest = max(known)
            if version > newest:
                raise StorageFailed(
                    f"the inventory {self._path} has schema {version}, and this labd knows "
                    f"{newest}: install the labd that wrote it, or a newer one",
                    version=version,
                    known=newest,
                )
            if version:
                await self._check_end()
            for number, sql in known.items():
                if number > version:
                    await self._migrate(number, sql)

    async def _check_end(self) -> None:
        """Refuse a database that lacks what was committed last, as a torn log leaves it.

        Raises:
            InventoryDamaged: Its copies know of later events.
        """
        if str(self._path) == _MEMORY:
            return
        committed = await quick(newest_event, self._path)
        last = int((await self.rows("SELECT coalesce(max(seq), 0) FROM events"))[0][0])
        if last < committed:
            raise InventoryDamaged(
                damaged(self._path, f"its events end at {last}, and {committed} were committed")
            )

    async def _migrate(self, number: int, sql: str) -> None:
        try:
            # user_version is part of the database header, hence of the transaction.
            await self._connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;"
            )
        except BaseException:
            await self._connection.rollback()
            raise

    async def check(self) -> list[str]:
        """Return what SQLite says is wrong (PRAGMA quick_check); at most 100 lines."""
        found = await self.rows("PRAGMA quick_check")
        return [str(row[0]) for row in found if row[0] != "ok"]

    async def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds.

        Raises:
            StorageFailed: The database did.
        """
        with _storage_errors(self._path, "reading"):
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]

    async def write(self, statements: Sequence[Statement]) -> None:
        """Do statements in one transaction, all or none.

        Not to be cancelled, and not to be called twice at one time: see `SqliteInventory`.

        Raises:
            StorageFailed: The database did; nothing was written.
        """
        note = self._copies.note if self._copies is not None else None
        with _storage_errors(self._path, "writing"):
            try:
                await self._connection.transact(statements, note)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not await self._drop():
                    raise
                await self._connection.transact(statements, note)

    async def copy(self) -> None:
        """Copy the whole inventory where that is due; nothing may be written meanwhile."""
        if self._copies is not None and self._copies.due:
            await self._copies.renew(self._connection)

    async def _drop(self) -> bool:
        dropped = await quick(self._disk_reserve.drop)
        if dropped:
            log.error("the disk of %s is full; labd's own reserve is given up", self._path)
        return dropped

    async def take_ballast(self) -> None:
        """Take labd's own reserve where the disk has room for it."""
        await quick(self._disk_reserve.take)

    async def close(self) -> None:
        """Close; what was committed stays."""
        with _storage_errors(self._path, "closing it"):
            await self._connection.close()
        if self._copies is not None:
            self._copies.close()


def _make_private(path: Path) -> None:
    """Make the file before SQLite does: its WAL takes over the mode of the database."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextmanager
def _storage_errors(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise InventoryDamaged(damaged(path, error)) from error
        raise StorageFailed(
            f"the inventory {path} failed while {doing}: {error}; "
            "look at the free space, the permissions and the health of the disk"
        ) from error
    except ValueError as error:
        # aiosqlite has no error class of its own for a closed connection.
        if "onnection" not in str(error):
            raise
        raise StorageFailed(f"the inventory {path} is closed; start labd again") from error


async def to_the_end(work: Coroutine[None, None, None]) -> None:
    """Do `work` whole even when this task is cancelled meanwhile; the cancellation follows it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    error = task.exception()
    if cancelled:
        raise asyncio.CancelledError from error
    if error is not None:
        raise error
