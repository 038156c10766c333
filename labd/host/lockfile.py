"""One daemon a root: flock(2) on a file that says who holds it.

The kernel drops the lock with the daemon, however it dies, so a stale file locks nobody out. The
descriptor is closed on exec (PEP 446), so no machine that outlives the daemon keeps the lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from labd.model.errors import ConfigError, Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a root. `pid` is 0 when the file does not tell."""

    pid: int
    root: str
    version: str


class RootLock:
    """The lock of one root, held until `release` or the end of a `with` block."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    @classmethod
    def acquire(cls, path: Path, *, root: Path, version: str) -> RootLock:
        """Take the lock, or refuse at once.

        Raises:
            Conflict: Another daemon serves this root; it is named.
            ConfigError: The file cannot be written.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(
                f"cannot open lock file {path}: {error.strerror}; run labd as root"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(fd)
            os.close(fd)
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise ConfigError(f"cannot lock {path}: {error.strerror}") from error
            raise _refusal(holder, root) from error
        text = json.dumps({"pid": os.getpid(), "root": str(root), "version": version}) + "\n"
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
        return cls(path, fd)

    def release(self) -> None:
        """Let go (idempotent). The file stays, empty: unlinking it would race with the next one."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _read(fd: int) -> Holder:
    try:
        facts = json.loads(os.pread(fd, 4096, 0))
        return Holder(pid=int(facts["pid"]), root=str(facts["root"]), version=str(facts["version"]))
    except (ValueError, KeyError, TypeError):
        return Holder(pid=0, root="", version="")


def _refusal(holder: Holder, root: Path) -> Conflict:
    if not holder.pid:
        return Conflict(f"another labd serves {root}: stop it, or give another --root")
    return Conflict(
        f"labd {holder.version} with pid {holder.pid} serves {root} already:"
        f" stop it (kill {holder.pid}; its machines keep running), or give another --root",
        pid=holder.pid,
        root=holder.root,
        version=holder.version,
    )
