"""What comes into the store: written once, looked at, cut, made durable."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from labd.images import foreign, headers
from labd.model.errors import ImageRefused, StorageFailed
from labd.model.images import ImageFormat
from labd.model.units import format_size

RESERVE = 64 << 20  # bytes that an import leaves free, for the inventory must go on writing


class Sink:
    """A file that is written once: hashed on the way, zero blocks become holes."""

    _ZEROS = bytes(64 << 10)

    def __init__(self, path: Path, limit: int | None) -> None:
        self._file = path.open("wb")
        self._path = path
        self._limit = limit
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            ImageRefused: The file has become larger than allowed.
            StorageFailed: There is no room.
        """
        self._size += len(chunk)
        if self._limit is not None and self._size > self._limit:
            raise ImageRefused(
                f"the image has more than {format_size(self._limit)}, the limit of this host; "
                "import a smaller one"
            )
        self._digest.update(chunk)
        with as_storage_failed("store an image"):
            self._check_room(len(chunk))
            for at in range(0, len(chunk), len(self._ZEROS)):
                block = chunk[at : at + len(self._ZEROS)]
                # Two bytes objects are compared at the speed of memory; any(block) is not.
                if block == self._ZEROS:
                    self._file.seek(len(block), os.SEEK_CUR)
                else:
                    self._file.write(block)

    def _check_room(self, more: int) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free - more < RESERVE:
            raise StorageFailed(
                f"no room for the image: {format_size(self._size)} have come, "
                f"{format_size(free)} are free and {format_size(RESERVE)} must stay so; "
                "delete images or make room"
            )

    def finish(self) -> tuple[str, int]:
        """Make the length right and return digest and length."""
        with as_storage_failed("store an image"):
            self._file.truncate(self._size)
            self._file.flush()
        return f"sha256:{self._digest.hexdigest()}", self._size

    def close(self) -> None:
        """Close the file; an error of the last write was told before or does not matter now."""
        with contextlib.suppress(OSError):
            self._file.close()


def inspect_file(path: Path, declared: ImageFormat | None) -> headers.Facts:
    """Check a received disk; see `headers.inspect`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(headers.HEAD_SIZE)
        file.seek(max(0, size - headers.SECTOR))
        tail = file.read(headers.SECTOR)
    return headers.inspect(head, size, declared, tail=tail)


def find_foreign(path: Path) -> foreign.Foreign | None:
    """Return as what a received disk has to be converted; None: not at all.

    Raises:
        ImageRefused: It is of another maker, and not one sane file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            # No file is that large: a header that says so is cut off.
            return os.pread(file.fileno(), length, offset) if 0 <= offset < 1 << 62 else b""

        kind = foreign.detect(read(0, headers.SECTOR), read(size - headers.SECTOR, headers.SECTOR))
        if kind is not None:
            foreign.check(kind, read, size)
    return kind


def digest_of(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def split_kernel(folder: Path, kernel_size: int | None) -> tuple[str, ...]:
    """Cut the received stream into `kernel` and, when there is more, `initrd`."""
    whole = folder / "disk"
    size = whole.stat().st_size
    cut = size if kernel_size is None else kernel_size
    if not 0 < cut <= size:
        raise ImageRefused(
            f"the kernel was said to have {cut} bytes, and {size} came in all; send it again"
        )
    initrd = folder / "initrd"
    if cut < size:
        with whole.open("rb") as source, initrd.open("wb") as target:
            source.seek(cut)
            shutil.copyfileobj(source, target, 1 << 20)
        os.truncate(whole, cut)
    kernel = folder / "kernel"
    whole.rename(kernel)
    with kernel.open("rb") as file:
        headers.check_kernel(file.read(headers.HEAD_SIZE), cut)
    if cut == size:
        return ("kernel",)
    with initrd.open("rb") as file:
        headers.check_initrd(file.read(512), size - cut)
    return ("kernel", "initrd")


@contextlib.contextmanager
def as_storage_failed(what: str) -> Iterator[None]:
    """Turn errors of the disk within the block into StorageFailed: cannot `what`."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""  # a write has none
        raise StorageFailed(
            f"cannot {what}: {error.strerror}{where}; make room, or check the folder's permissions"
        ) from error


def copy_file(source: Path, target: Path, each: Callable[[bytes], None]) -> int:
    """Copy a file, give each of its blocks to `each`, and return its size in bytes."""
    size = 0
    with source.open("rb") as taken, target.open("xb") as made:
        while block := taken.read(1 << 20):
            made.write(block)
            each(block)
            size += len(block)
    return size


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
