"""Frozen memory: a sparse file on disk that is the truth, and a sealed copy in memory to map.

QEMU 7.2 opens the file that it maps read-write even for a private mapping. A file would need write
permission for every fork's user; a sealed memfd cannot be written by anybody (memfd_create(2),
F_SEAL_WRITE in fcntl(2)), whoever opens it by `/proc/self/fd`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from labd.drivers.storage.local.stream import PAGE
from labd.model.errors import StorageFailed

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK: Final = 4 << 20


class Canvas:
    """Memory that is being filled, page by page; `seal` ends that."""

    def __init__(self, name: str, size: int) -> None:
        self.fd = os.memfd_create(f"labd-ram-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self._view = memoryview(self._map)
        self._written = bytearray(size // PAGE)

    def put(self, offset: int, page: memoryview | None) -> None:
        """Write a page; None is one of zeros, which a page that never was written is already."""
        index = offset // PAGE
        if page is not None:
            self._view[offset : offset + PAGE] = page
            self._written[index] = 1
        elif self._written[index]:
            self._view[offset : offset + PAGE] = bytes(PAGE)

    def seal(self) -> int:
        """Make it unchangeable for ever; return the descriptor, which is the caller's now."""
        self._view.release()
        self._map.close()
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        return self.fd

    def close(self) -> None:
        """Give it up (instead of `seal`)."""
        self._view.release()
        self._map.close()
        os.close(self.fd)


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the data of a sparse file."""
    end = os.fstat(fd).st_size
    at = 0
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at - begin


def copy(source: int, target: int) -> tuple[str, int]:
    """Copy a sparse file, pages of zeros left out; return digest and bytes of its data.

    The digest is that of the size, and of offset and content of every page that is not zero, so
    that it does not depend on how a file system keeps holes. Blocks: use a thread.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    return _read(source, lambda part, at: _write(target, part, at))


def digest(source: int) -> str:
    """Return the digest of a sparse file as `copy` has it. Blocks: use a thread."""
    return _read(source, None)[0]


def _read(source: int, sink: Callable[[memoryview, int], None] | None) -> tuple[str, int]:
    size = os.fstat(source).st_size
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    written = 0
    with mmap.mmap(source, size, access=mmap.ACCESS_READ) as view, memoryview(view) as data:
        for begin, end in _runs(source, data):
            digest.update(begin.to_bytes(8, "big"))
            for at in range(begin, end, _CHUNK):
                with data[at : min(at + _CHUNK, end)] as part:
                    digest.update(part)
                    if sink is not None:
                        sink(part, at)
            written += end - begin
    return f"sha256:{digest.hexdigest()}", written


def _runs(fd: int, data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of the runs of pages that are not all zeros."""
    zeros = bytes(PAGE)
    for begin, length in extents(fd):
        start = -1
        for at in range(begin - begin % PAGE, begin + length, PAGE):
            # Two bytes objects are compared at the speed of memory, a view byte by byte.
            if bytes(data[at : at + PAGE]) == zeros:
                if start >= 0:
                    yield start, at
                start = -1
            elif start < 0:
                start = at
        if start >= 0:
            yield start, min(-(-(begin + length) // PAGE) * PAGE, len(data))


def _write(fd: int, part: memoryview, at: int) -> None:
    done = 0
    while done < len(part):
        with part[done:] as rest:
            done += os.pwrite(fd, rest, at + done)


def load(path: Path, name: str, expected: str) -> int:
    """Return a sealed copy of a file; the descriptor is the caller's. Blocks: use a thread.

    Raises:
        StorageFailed: It cannot be read, or is not what it was.
    """
    try:
        with path.open("rb") as file:
            fd = os.memfd_create(f"labd-ram-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                _require(path, copy(file.fileno(), fd)[0], expected)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            except BaseException:
                os.close(fd)
                raise
    except OSError as error:
        raise StorageFailed(
            f"cannot read {path.name}: {error.strerror}; remove the checkpoint and save it again"
        ) from error
    return fd


def _require(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise StorageFailed(
            f"{path.name} is not what was saved ({found[:19]} instead of {expected[:19]}): the "
            "checkpoint is damaged; remove it and save it again"
        )


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Map a file to read it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        data = memoryview(view)
        try:
            yield data
        finally:
            data.release()
