"""Disks that say what they are made of, with the same contract as real ones (test_storage.py).

They are small files in the folders in which a daemon has its disks, so that tests see what is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from labd.images.headers import MAX_VIRTUAL_SIZE
from labd.model.disks import BlockAttachment, DiskKind, DiskRef
from labd.model.errors import InputError, LaunchFailed, StorageFailed
from labd.model.images import Image, ImageFormat

_SUFFIX = ".qcow2"


class FakeStorage:
    """Implements the port `Storage`.

    Attributes:
        shared: Tells whether there is an image or a layer of this name.
        written: Bytes that the disks of each machine take; None: as many as their files have.
    """

    def __init__(
        self,
        root: Path,
        shared: Callable[[DiskRef], bool] = lambda _: True,
        written: Callable[[], int] | None = None,
    ) -> None:
        self._nodes = root / "nodes"
        self.shared = shared
        self.written = written

    def path(self, ref: DiskRef) -> Path:
        """Return the file of a machine's disk."""
        if ref.kind is not DiskKind.MACHINE or ref.storage != "local" or "/" in ref.name + ref.key:
            raise StorageFailed(f"there is no disk {ref}")
        return self._nodes / ref.key / ref.name

    def there(self, ref: DiskRef) -> bool:
        """Tell whether there is a disk."""
        return self.path(ref).is_file() if ref.kind is DiskKind.MACHINE else self.shared(ref)

    async def create(self, ref: DiskRef, size: int) -> None:
        """Make a file that says its size."""
        self._make(ref, _checked(size), "blank")

    async def clone(self, ref: DiskRef, image: Image, size: int | None) -> None:
        """Make a file that says what it is an overlay of."""
        if image.format not in (ImageFormat.RAW, ImageFormat.QCOW2):
            raise InputError(f"image {image.name} has no disk to write on")
        wanted = image.virtual_size if size is None else size
        if wanted < image.virtual_size:
            raise InputError(f"a disk of {wanted} bytes is smaller than image {image.name}")
        self._make(ref, _checked(wanted), f"on {image.digest}")

    async def child(self, ref: DiskRef, parent: DiskRef) -> None:
        """Make a file that says what it stands on."""
        if not self.there(parent):
            raise StorageFailed(f"cannot make disk {ref.name}: there is no {parent}")
        size = self._size(parent) if parent.kind is DiskKind.MACHINE else 0
        self._make(ref, size or 512, f"on {parent.name or parent.key}")

    async def grow(self, ref: DiskRef, size: int) -> None:
        """Say another size."""
        has = self._size(ref)
        if has is None:
            raise StorageFailed(f"there is no disk {ref}")
        if size < has:
            raise InputError(f"a disk of {has} cannot become {size}")
        words = self.path(ref).read_text().partition(" ")
        self.path(ref).write_text(f"{_checked(size)} {words[2]}")

    async def seed(self, ref: DiskRef, files: Mapping[str, bytes]) -> None:
        """Make a file that has all the files in it."""
        path = self.path(ref)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
        path.chmod(0o600)

    def _make(self, ref: DiskRef, size: int, what: str) -> None:
        path = self.path(ref)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                file.write(f"{size} {what}\n")
        except OSError as error:
            raise StorageFailed(f"cannot make disk {ref.name}: {error.strerror}") from error
        path.chmod(0o600)

    def _size(self, ref: DiskRef) -> int | None:
        if not self.path(ref).is_file():
            return None
        word = self.path(ref).read_bytes().partition(b" ")[0]
        return int(word) if word.isdigit() else None

    async def exists(self, ref: DiskRef) -> bool:
        """Tell whether there is such a disk."""
        return self.there(ref)

    async def virtual_size(self, ref: DiskRef) -> int | None:
        """Return what it says."""
        return self._size(ref)

    async def sizes(self, key: str) -> Mapping[str, int]:
        """Return what all say."""
        names = [path.name for path in self._files(key) if path.name.endswith(_SUFFIX)]
        refs = [DiskRef(kind=DiskKind.MACHINE, key=key, name=name) for name in names]
        return {ref.name: size for ref in refs if (size := self._size(ref)) is not None}

    def _files(self, key: str) -> list[Path]:
        folder = self._nodes / key
        return sorted(folder.iterdir()) if folder.is_dir() else []

    async def usage(self, key: str) -> int:
        """Return what a test says, or the length of the files."""
        if self.written is not None:
            return self.written()
        return sum(path.stat().st_size for path in self._files(key))

    async def machines(self) -> Sequence[str]:
        """Return the names of all folders."""
        return sorted(p.name for p in self._nodes.iterdir()) if self._nodes.is_dir() else []

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Open the file."""
        if not self.there(ref):
            raise LaunchFailed(f"cannot open {ref}: No such file or directory")
        mode = os.O_RDWR if writable else os.O_RDONLY
        return BlockAttachment(fd=os.open(self.path(ref), mode | os.O_CLOEXEC))

    async def delete(self, ref: DiskRef) -> None:
        """Delete the file."""
        self.path(ref).unlink(missing_ok=True)

    async def discard(self, *keys: str) -> None:
        """Delete the folders."""
        for key in keys:
            shutil.rmtree(self._nodes / key, ignore_errors=True)

    async def sweep(self, keep: Collection[str]) -> Sequence[str]:
        """Delete all folders but these."""
        gone = [key for key in await self.machines() if key not in keep]
        for key in gone:
            await self.discard(key)
        return gone


def _checked(size: int) -> int:
    if not 0 < size <= MAX_VIRTUAL_SIZE:
        raise InputError(f"a disk of {size} bytes cannot be made")
    return -(-size // 512) * 512
