"""All storage classes of a host as one: each disk goes to the class that it names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from labd.drivers.storage.port import Storage
from labd.model.disks import BlockAttachment, DiskRef
from labd.model.errors import StorageFailed
from labd.model.images import Image


class StorageClasses:
    """Implements the port `Storage`.

    Args:
        classes: Name -> driver of this class.
    """

    def __init__(self, classes: Mapping[str, Storage]) -> None:
        self._classes = dict(classes)

    def _of(self, ref: DiskRef) -> Storage:
        found = self._classes.get(ref.storage)
        if found is None:
            raise StorageFailed(
                f"disk {ref.name or ref.key[:12]} is in storage class {ref.storage!r}, which "
                "labd.toml has not: put the class back, and start labd anew"
            )
        return found

    async def create(self, ref: DiskRef, size: int) -> None:
        """Make an empty disk; see the port."""
        await self._of(ref).create(ref, size)

    async def clone(self, ref: DiskRef, image: Image, size: int | None) -> None:
        """Make a disk that begins as an image; see the port."""
        await self._of(ref).clone(ref, image, size)

    async def child(self, ref: DiskRef, parent: DiskRef) -> None:
        """Make a disk that begins as another one; see the port."""
        await self._of(ref).child(ref, parent)

    async def grow(self, ref: DiskRef, size: int) -> None:
        """Give a disk more bytes; see the port."""
        await self._of(ref).grow(ref, size)

    async def seed(self, ref: DiskRef, files: Mapping[str, bytes]) -> None:
        """Make a CD for cloud-init; see the port."""
        await self._of(ref).seed(ref, files)

    async def exists(self, ref: DiskRef) -> bool:
        """True if there is such a disk."""
        return await self._of(ref).exists(ref)

    async def virtual_size(self, ref: DiskRef) -> int | None:
        """Return the bytes that a guest sees; see the port."""
        return await self._of(ref).virtual_size(ref)

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Open a disk; see the port."""
        return await self._of(ref).attach(ref, writable=writable)

    async def delete(self, ref: DiskRef) -> None:
        """Delete one disk; see the port."""
        await self._of(ref).delete(ref)

    async def sizes(self, key: str) -> Mapping[str, int]:
        """Return name -> virtual size, over all classes."""
        found: dict[str, int] = {}
        for storage in self._classes.values():
            found |= await storage.sizes(key)
        return found

    async def usage(self, key: str) -> int:
        """Return the bytes that a machine's disks take in all classes."""
        return sum([await storage.usage(key) for storage in self._classes.values()])

    async def machines(self) -> Sequence[str]:
        """Return the keys of all machines that have disks in any class."""
        return sorted({key for each in self._classes.values() for key in await each.machines()})

    async def discard(self, *keys: str) -> None:
        """Delete all disks of some machines, in every class."""
        for storage in self._classes.values():
            await storage.discard(*keys)

    async def sweep(self, keep: Collection[str]) -> Sequence[str]:
        """Delete the disks of every machine but these, in every class."""
        return sorted({key for each in self._classes.values() for key in await each.sweep(keep)})
