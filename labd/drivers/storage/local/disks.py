"""Disks as qcow2 files in folders of this host.

    <root>/nodes/<machine key>/<name>           disks of machines, 0600
    <state>/images/<hex>/disk                   of the image store, see `images`
    <state>/checkpoints/.layers/<hex>           of checkpoints, see `checkpoints`

`root` is the state folder for the class `local`, and any other for a class of labd.toml. Images and
layers are always in the state folder. Nobody else joins these paths.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from labd.drivers.storage.local.overlay import Fresh, fresh, grown_header
from labd.drivers.storage.local.seed import write_seed
from labd.host.evidence import entries
from labd.host.plain_file import open_file
from labd.host.threads import bulk, quick
from labd.host.usage import folder_size
from labd.images.headers import SECTOR
from labd.images.intake import as_storage_failed
from labd.model.disks import LOCAL, BlockAttachment, DiskKind, DiskRef, image_disk
from labd.model.errors import InputError, StorageFailed
from labd.model.images import Image
from labd.model.units import format_size

_KEY = re.compile(r"[a-z0-9]{1,64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\Z")


class LocalStorage:
    """Implements the port `Storage`.

    Args:
        state: The root's state folder.
        root: Where the disks of machines are; the state folder when None.
        name: Of the storage class.
    """

    def __init__(self, state: Path, root: Path | None = None, name: str = LOCAL) -> None:
        self._state = state
        self._nodes = (root or state) / "nodes"
        self._name = name

    def _path(self, ref: DiskRef) -> Path:
        named = ref.kind is DiskKind.MACHINE
        if (
            not _KEY.match(ref.key)
            or ref.storage not in ({self._name} if named else {LOCAL})
            or (named and not _NAME.match(ref.name))
        ):
            raise StorageFailed(f"storage class {self._name} has no disk {str(ref)[:160]!r}")
        match ref.kind:
            case DiskKind.MACHINE:
                return self._nodes / ref.key / ref.name
            case DiskKind.IMAGE:
                return self._state / "images" / ref.key / "disk"
            case DiskKind.LAYER:
                return self._state / "checkpoints" / ".layers" / ref.key

    # making

    async def create(self, ref: DiskRef, size: int) -> None:
        """Make an empty qcow2; see the port."""
        await quick(_write_fresh, self._path(ref), fresh(_whole_sectors(size)))

    async def clone(self, ref: DiskRef, image: Image, size: int | None) -> None:
        """Make a qcow2 overlay on the image's disk; see the port."""
        if not image.has_disk:
            raise InputError(
                f"image {image.name} is of format {image.format} and has no disk to write on; "
                "choose a raw or qcow2 image"
            )
        wanted = _whole_sectors(image.virtual_size if size is None else size)
        if wanted < image.virtual_size:
            raise InputError(
                f"a disk of {format_size(wanted)} is smaller than image {image.name} "
                f"({format_size(image.virtual_size)}); choose at least that size"
            )
        base = str(self._path(image_disk(image.digest)).absolute())
        await quick(_write_fresh, self._path(ref), fresh(wanted, base, str(image.format)))

    async def child(self, ref: DiskRef, parent: DiskRef) -> None:
        """Make a qcow2 overlay of the same size on another one; see the port."""
        await quick(_write_child, self._path(parent), self._path(ref))

    async def grow(self, ref: DiskRef, size: int) -> None:
        """Give a disk more sectors at its end; see the port."""
        await quick(_grow, self._path(ref), _whole_sectors(size))

    async def seed(self, ref: DiskRef, files: Mapping[str, bytes]) -> None:
        """Make a CD with these files for cloud-init; see the port."""
        await quick(write_seed, self._path(ref), files)

    # looking

    async def exists(self, ref: DiskRef) -> bool:
        """True if there is such a disk."""
        return await quick(self._path(ref).exists)

    async def virtual_size(self, ref: DiskRef) -> int | None:
        """Return the size that a qcow2 claims; see the port."""
        return await quick(_virtual_size, self._path(ref))

    async def sizes(self, key: str) -> Mapping[str, int]:
        """Return name -> virtual size of a machine's disks; see the port."""
        return await quick(self._sizes, key)

    def _sizes(self, key: str) -> dict[str, int]:
        return {
            name: size
            for name in entries(self._nodes / key)
            if name.endswith(".qcow2")
            and (size := _virtual_size(self._nodes / key / name)) is not None
        }

    async def usage(self, key: str) -> int:
        """Return the bytes that a machine's disks take; see the port."""
        return await quick(folder_size, self._nodes / key)

    async def machines(self) -> Sequence[str]:
        """Return the keys of machines that have disks; see the port."""
        return await quick(entries, self._nodes)

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Open a disk afresh: two QEMUs with one open file would both get the image lock."""
        opening = asyncio.ensure_future(quick(open_file, self._path(ref), writable=writable))
        try:
            return BlockAttachment(fd=await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)  # a thread cannot be cancelled
            raise

    # letting go

    async def delete(self, ref: DiskRef) -> None:
        """Delete one disk of a machine (idempotent); see the port."""
        if ref.kind is not DiskKind.MACHINE:
            raise StorageFailed(f"{ref} is shared, and not deleted as a machine's disk")
        with as_storage_failed(f"delete disk {ref.name}"):
            await quick(self._path(ref).unlink, missing_ok=True)

    async def discard(self, *keys: str) -> None:
        """Delete all disks of machines (idempotent); see the port."""
        for key in keys:
            if not _KEY.match(key):
                raise StorageFailed(f"{key[:80]!r} is no key of a machine")
        await quick(_remove_trees, [self._nodes / key for key in keys])

    async def sweep(self, keep: Collection[str]) -> Sequence[str]:
        """Delete the disks of every machine but these; see the port."""
        return await bulk(self._sweep, set(keep))

    def _sweep(self, keep: set[str]) -> list[str]:
        gone = [name for name in entries(self._nodes) if name not in keep]
        _remove_trees(self._nodes / name for name in gone)
        return gone


def _remove_trees(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _write_fresh(path: Path, content: Fresh) -> None:
    with as_storage_failed(f"make disk {path.name}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # Under another name until it is whole: a daemon may die half way.
        half = path.with_name(f".{path.name}.new")
        half.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(half, flags, 0o600), "wb") as file:
                file.write(content.head)
                file.truncate(content.length)
            half.rename(path)
        except BaseException:
            half.unlink(missing_ok=True)
            raise


def _write_child(parent: Path, path: Path) -> None:
    with as_storage_failed(f"make disk {path.name}"):
        with parent.open("rb") as file:
            size = int.from_bytes(file.read(32)[24:], "big")  # docs/interop/qcow2.txt
        content = fresh(size, str(parent.absolute()), "qcow2")
    _write_fresh(path, content)


def _grow(path: Path, size: int) -> None:
    with as_storage_failed(f"grow disk {path.name}"):
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "r+b") as file:
            change = grown_header(file.read(48), size)
            if change is not None:
                file.seek(change.at)
                file.write(change.data)


def _virtual_size(path: Path) -> int | None:
    """Return the size that a qcow2 file claims (docs/interop/qcow2.txt), None when there is none.

    Its guest may have written what it likes: it is compared, and nothing more.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        head = os.read(fd, 32)
    finally:
        os.close(fd)
    return int.from_bytes(head[24:32], "big") if head.startswith(b"QFI\xfb") else None


def _whole_sectors(size: int) -> int:
    return -(-size // SECTOR) * SECTOR
