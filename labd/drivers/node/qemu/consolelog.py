"""The log of a console: two files of bounded size, each with an index of times."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from labd.host.timelog import TimeIndex, index_of

LOG_LIMIT: Final = 512 << 10  # bytes of `console.log`, after which it becomes `console.log.1`


class RotatingLog:
    """`path` and, once it has grown to `limit` bytes, its older half `path.1`.

    All of it may block, so that a `LogKeeper` calls it in a thread.
    """

    def __init__(self, path: Path, limit: int = LOG_LIMIT) -> None:
        self._path, self._limit = path, limit
        self._fd = -1
        self._size = 0
        self._since_mark: int | None = None
        self._times = TimeIndex(path)

    @property
    def older(self) -> Path:
        """Where the older half is."""
        return self._path.with_name(self._path.name + ".1")

    def open(self, *, fresh: bool, base: int | None = None) -> None:
        """Open for appending.

        Args:
            fresh: Forget what an earlier start has written.
            base: Position of the first byte, where it is known (`labd.host.timelog`).
        """
        if fresh:
            for path in (self.older, self._path):
                path.unlink(missing_ok=True)
                index_of(path).unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        with contextlib.suppress(OSError):
            self._times.open(self._size, base)

    def write(self, data: bytes, now: int | None = None) -> None:
        """Append what came `now` (nanoseconds since 1970).

        A full disk loses output and nothing else.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit or self._times.full:
                self._rotate()
            self._times.note(self._times.base + self._size, now)
            written = os.write(self._fd, data[-self._limit :])
            self._size += written
            if self._since_mark is not None:
                self._since_mark += written

    def read(self) -> bytes:
        """Return everything that is kept."""
        parts = []
        for path in (self.older, self._path):
            with contextlib.suppress(FileNotFoundError):
                parts.append(path.read_bytes())
        return b"".join(parts)

    def mark(self, before: int = 0) -> None:
        """Remember the place `before` bytes before the end for `read_since_mark`."""
        self._since_mark = before

    def read_since_mark(self) -> bytes:
        """Return what is kept of the output since the last mark, or all without one."""
        kept = self.read()
        if self._since_mark is None:
            return kept
        return kept[max(0, len(kept) - self._since_mark) :]

    def close(self) -> None:
        """Close the file (idempotent)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._times.close()

    def _rotate(self) -> None:
        end = self._times.base + self._size
        os.replace(self._path, self.older)
        with contextlib.suppress(OSError):
            os.replace(index_of(self._path), index_of(self.older))
        self.close()
        self.open(fresh=False, base=end)
