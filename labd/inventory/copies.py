"""A second inventory beside the first, for the day on which that is damaged.

It is a copy of the database (SQLite's online backup, checked before it counts) and a log of every
change that was committed since, one JSON line a transaction:

    labd.db.copies/copy-7.db        the whole inventory at one moment
    labd.db.copies/since-7.jsonl    [[sql, [value, ...]], ...] of each transaction after that moment

So what is wanted and last known does not hang on one file: pages that go bad in the database are
in neither. A new generation begins when labd starts and when the log has become long, and the old
one goes when the new one is whole. Nothing here ever fails a commit: a log that cannot be written
ends its generation, and `renew` begins the next when there is room.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiosqlite

from labd.host.threads import quick
from labd.model.errors import InventoryDamaged

log = logging.getLogger(__name__)

_LONG: Final = 32 << 20  # bytes of a log after which the database is copied again
_TAIL: Final = 1 << 20  # bytes of a log's end in which its last event is looked for
EVENT_INTO: Final = "INSERT INTO events "  # begins each statement whose first value is a seq
_COPY = re.compile(r"^copy-(\d+)\.db\Z")
# Primary result codes for what is no change of this inventory, as bytes that turned leave it.
_NO_CHANGE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}
)
_Change = tuple[str, Sequence[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuilding came to.

    Attributes:
        changes: Transactions that were done again.
        path: Of the new inventory, which is not in its place yet.
    """

    changes: int
    path: Path


class Copies:
    """The copies of one inventory, for the daemon that has it open.

    Args:
        database: The file; the copies are in a folder beside it, FILE.copies.
    """

    def __init__(self, database: Path) -> None:
        self._folder = _folder(database)
        self._log = -1
        self._size = 0
        self._generation = max(_generations(self._folder), default=0)

    @property
    def due(self) -> bool:
        """Whether a new generation should begin."""
        return self._log < 0 or self._size > _LONG

    async def renew(self, connection: aiosqlite.Connection) -> None:
        """Begin a new generation; nothing may be committed meanwhile.

        A copy that is damaged, or that there is no room for, is told in the log, and the old
        generation stays.
        """
        number = self._generation + 1
        fresh = self._folder / f"copy-{number}.db.new"
        try:
            await quick(self._make_folder)
            target = await quick(_open_copy, fresh)
            try:
                await connection.backup(target)
                problems = await quick(_check, target)
            finally:
                await quick(target.close)
            if problems:
                log.critical(
                    "the inventory is damaged (%s); the copy of before stays: stop labd and run "
                    "`lab fsck --rebuild`; machines run on",
                    problems[0],
                )
                fresh.unlink(missing_ok=True)
                return
            await quick(self._begin, number, fresh)
        except (sqlite3.Error, OSError) as error:
            log.warning("the inventory cannot be copied: %s", error)
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def _begin(self, number: int, fresh: Path) -> None:
        fd = os.open(
            _log_of(self._folder, number),
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            _sync(fresh)
            fresh.replace(_copy_of(self._folder, number))
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._log, self._size, self._generation = fd, 0, number
        for old in _generations(self._folder):
            if old != number:
                _copy_of(self._folder, old).unlink(missing_ok=True)
                _log_of(self._folder, old).unlink(missing_ok=True)

    def note(self, changes: Sequence[_Change]) -> None:
        """Write down what has been committed; never fails. Blocks: in the commit's thread."""
        if self._log >= 0:
            line = json.dumps([[sql, list(values)] for sql, values in changes]) + "\n"
            self._append(line.encode())

    def _append(self, line: bytes) -> None:
        try:
            # A line that is cut off ends what can be done again, so nothing may follow it.
            written = os.write(self._log, line)
            self._size += written
            if written == len(line):
                return
            log.warning("the log of the inventory's changes is full; it is begun anew later")
        except OSError as error:
            log.warning("the inventory's changes cannot be written down: %s", error)
        self.close()

    def close(self) -> None:
        """Close the log; what is written stays."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def is_lost(database: Path) -> bool:
    """True if there is a copy of an inventory, and not the inventory itself. Blocks."""
    return bool(_generations(_folder(database))) and not database.exists()


def newest_event(database: Path) -> int:
    """Return the highest seq of an event that was committed, as the copies have it. Blocks.

    0 when there are none. A write-ahead log whose end was lost is no damage that SQLite could see,
    and labd would give the same numbers to other events.
    """
    folder = _folder(database)
    number = max(_generations(folder), default=0)
    found = 0
    with suppress(sqlite3.Error, OSError):
        with closing(_open_whole(_copy_of(folder, number))) as copy:
            found = int(copy.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
        for transaction in _last_transactions(_log_of(folder, number)):
            if seqs := [int(str(vs[0])) for sql, vs in transaction if sql.startswith(EVENT_INTO)]:
                return max(found, *seqs)
    return found


def rebuild(database: Path) -> Rebuilt:
    """Make an inventory out of the newest copy that is whole and the changes since. Blocks.

    The damaged one is not touched; `put_in_place` does that.

    Raises:
        InventoryDamaged: No copy is whole.
    """
    folder = _folder(database)
    target = database.with_name(f"{database.name}.rebuilt")
    for number in sorted(_generations(folder), reverse=True):
        target.unlink(missing_ok=True)
        try:
            with (
                closing(_open_whole(_copy_of(folder, number))) as copy,
                closing(_open_copy(target)) as made,
            ):
                copy.backup(made)
                problems = _check(made)
                changes = 0 if problems else _do_again(made, _log_of(folder, number))
        except sqlite3.Error as error:
            problems, changes = [str(error)], 0
        if not problems:
            _sync(target)
            return Rebuilt(changes=changes, path=target)
        log.warning("copy %d of the inventory is damaged, too: %s", number, problems[0])
    target.unlink(missing_ok=True)
    raise InventoryDamaged(
        f"no copy of the inventory in {folder} is whole: put a backup of {database} in its place; "
        f"or move it and {folder} away to begin with nothing, which ends the machines that run"
    )


def aside(database: Path, suffix: str) -> Path:
    """Return where a damaged inventory is kept."""
    return database.with_name(f"{database.name}.damaged-{suffix}")


def put_in_place(rebuilt: Rebuilt, database: Path, kept: Path) -> None:
    """Move the damaged inventory to `kept`, and the new one in its place. Blocks."""
    for part in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{database}{part}", f"{kept}{part}")
    os.replace(rebuilt.path, database)
    _sync(database)


def _do_again(connection: sqlite3.Connection, changes: Path) -> int:
    """Do the changes of a log again, up to the first line that is not whole; return how many.

    Raises:
        sqlite3.Error: The new inventory failed, such as for want of room.
    """
    done = 0
    for transaction in _transactions(changes):
        try:
            with connection:
                for sql, values in transaction:
                    connection.execute(sql, values)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if code & 0xFF not in _NO_CHANGE:
                raise
            log.warning("change %d of %s is none (%s): it ends there", done + 1, changes, error)
            break
        done += 1
    return done


def _transactions(path: Path) -> Iterator[Sequence[_Change]]:
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            try:
                found = _changes(line)
            except (ValueError, TypeError):
                return
            yield found


def _last_transactions(path: Path) -> Iterator[Sequence[_Change]]:
    """Give those at the end of a log, the last one first."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with suppress(ValueError, TypeError):  # the first and the last may be cut off
            yield _changes(line)


def _changes(line: bytes) -> list[_Change]:
    return [(str(sql), list(values)) for sql, values in json.loads(line)]


def _open_whole(path: Path) -> sqlite3.Connection:
    """Open a copy that nobody writes any more; no file is made beside it."""
    return sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)


def _open_copy(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Used by one thread after the other, and synced once, at its end.
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.executescript("PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON;")
    return connection


def _check(connection: sqlite3.Connection) -> list[str]:
    found = [str(row[0]) for row in connection.execute("PRAGMA quick_check")]
    return [line for line in found if line != "ok"]


def _sync(path: Path) -> None:
    """Have a file and its name on the disk."""
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _folder(database: Path) -> Path:
    return database.with_name(f"{database.name}.copies")


def _copy_of(folder: Path, number: int) -> Path:
    return folder / f"copy-{number}.db"


def _log_of(folder: Path, number: int) -> Path:
    return folder / f"since-{number}.jsonl"


def _generations(folder: Path) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(match[1]) for name in os.listdir(folder) if (match := _COPY.match(name))]
    return []
