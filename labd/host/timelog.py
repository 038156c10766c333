"""When the lines of a bounded log were written: an index of times beside the log.

A record is 16 bytes, `(position, time)`: from this byte on, output came at this time (nanoseconds
since 1970). Positions count on over rotations and restarts: a log begins at the time of its first
opening in nanoseconds, and no log grows by more than a byte in one. The first record of an index is
the position of the first byte of its log.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_RECORD = struct.Struct("<QQ")
INDEX_LIMIT: Final = 16384  # records, after which a log is rotated
_STEP = 64  # bytes that one record covers at least, unless there was a pause
_PAUSE = 500_000_000  # nanoseconds
# `-msg timestamp=on` of QEMU: 2026-11-23T10:00:00.123456Z qemu-system-x86_64: text
_STAMPED = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) (?:[\w.-]*qemu-system[\w.-]*: )?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a log.

    Attributes:
        position: Of its first byte; grows from line to line.
        time: RFC 3339 UTC, when that byte came.
        text: Without line ends; not cleaned: a guest may write anything.
        whole: Whether its end has come.
    """

    position: int
    time: str
    text: str
    whole: bool


def index_of(log: Path) -> Path:
    """Return where the index of a log is."""
    return log.with_name(log.name + ".times")


class TimeIndex:
    """Writes the index of one log. A full disk loses times and nothing else.

    Args:
        log: Path of the log.
    """

    def __init__(self, log: Path) -> None:
        self._path = index_of(log)
        self._fd = -1
        self._records = 0
        self._last = (0, 0)
        self.base = 0

    @property
    def full(self) -> bool:
        """Whether the log should be rotated."""
        return self._records >= INDEX_LIMIT

    def open(self, size: int, base: int | None = None) -> None:
        """Open for appending.

        Args:
            size: Of the log.
            base: Position of the log's first byte; None for what the index says, or now.
        """
        now = time.time_ns()
        self._records, self._last = 0, (0, 0)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)
        head = os.pread(self._fd, _RECORD.size, 0)
        if base is None and size and len(head) == _RECORD.size:
            self.base = _RECORD.unpack(head)[0]
            self._records = os.fstat(self._fd).st_size // _RECORD.size
            return
        self.base = now - size if base is None else base
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            self._append(self.base, now)

    def note(self, position: int, now: int | None = None) -> None:
        """Remember that output came `now` (nanoseconds since 1970), from a position on."""
        now = time.time_ns() if now is None else now
        at, when = self._last
        if self._fd < 0 or self.full or (position - at < _STEP and now - when < _PAUSE):
            return
        with contextlib.suppress(OSError):
            self._append(position, now)

    def close(self) -> None:
        """Close the file (idempotent)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, position: int, now: int) -> None:
        os.write(self._fd, _RECORD.pack(position, now))
        self._records += 1
        self._last = (position, now)


def read_lines(log: Path, after: int = 0) -> list[LogLine]:
    """Return the lines of a log and of its older half `log.1` behind a position. Blocks."""
    text, base, times = b"", 0, list[tuple[int, int]]()
    for path in (log.with_name(log.name + ".1"), log):
        try:
            content, written = path.read_bytes(), path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        records = _records(index_of(path)) or [(written - len(content), written)]
        if not text or base + len(text) != records[0][0]:
            text, base = b"", records[0][0]  # the older half does not lead up to this one
        text += content
        times += records
    return [line for line in split_lines(text, base, sorted(times)) if line.position > after]


def _records(path: Path) -> list[tuple[int, int]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]))


def split_lines(text: bytes, base: int, times: Sequence[tuple[int, int]]) -> Iterator[LogLine]:
    """Yield the lines of a text whose first byte has the position `base`; pure.

    Args:
        text: Output as it came.
        base: Position of its first byte.
        times: Records in the order of their positions.
    """
    starts = [position for position, _ in times]
    position = base
    for raw in text.split(b"\n"):
        whole = position + len(raw) < base + len(text)
        if raw or whole:
            at = max(bisect_right(starts, position) - 1, 0)
            yield LogLine(
                position=position,
                time=stamp(times[at][1]) if times else "",
                text=raw.decode(errors="replace").rstrip("\r"),
                whole=whole,
            )
        position += len(raw) + 1


def read_stamped(path: Path) -> list[LogLine]:
    """Return the lines of QEMU's own log, which have their times in front. Blocks.

    A line without a time has that of the one before.
    """
    try:
        text = path.read_bytes().decode(errors="replace")
        then = stamp(path.stat().st_mtime_ns)
    except FileNotFoundError:
        return []
    lines = []
    position = 0
    for raw in text.splitlines():
        found = _STAMPED.match(raw)
        if found is not None:
            then = _milli(found[1])
        rest = raw[found.end() :] if found is not None else raw
        if rest.strip():
            lines.append(LogLine(position=position, time=then, text=rest, whole=True))
        position += len(raw) + 1
    return lines


def stamp(nanoseconds: int) -> str:
    """Return a time as RFC 3339 UTC to the millisecond."""
    moment = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milli(text: str) -> str:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
