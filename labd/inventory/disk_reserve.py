"""A file that is there to be deleted: what lets labd write when the disk is full.

A daemon that cannot write can neither tell of a crash nor accept the `destroy` that would make
room. So some room is kept occupied; the first write that fails for want of it gives it up.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

SIZE: Final = 4 << 20  # bytes; some ten thousand transactions
# Bytes that must be free, besides, before the room is taken again.
_EASE: Final = 32 << 20


class DiskReserve:
    """The file; `path` None: there is none.

    Args:
        path: On the file system of the inventory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def drop(self) -> bool:
        """Give up the room; tell whether there was any."""
        if self._path is None:
            return False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def take(self) -> None:
        """Occupy the room where there is plenty; without it labd works, too."""
        if self._path is None or self._path.exists():
            return
        with suppress(OSError):
            found = os.statvfs(self._path.parent)
            if found.f_bavail * found.f_frsize < SIZE + _EASE:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            except OSError:
                self._path.unlink(missing_ok=True)
            finally:
                os.close(fd)
