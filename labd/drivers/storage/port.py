"""The contract of a kind of storage: images, disks and checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from labd.model.checkpoints import (
    CheckpointRecord,
    Incoming,
    SavedNode,
)
from labd.model.disks import BlockAttachment, DiskRef
from labd.model.images import Image, ImageFormat


class BlockStorage(Protocol):
    """What a machine needs of storage: its disks, opened."""

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Open a disk for one machine; two calls give two that know nothing of each other.

        An open descriptor in it is the caller's, also when the call is cancelled: there is none
        then.

        Raises:
            LaunchFailed: It is missing, or is not what a machine may be given.
            StorageFailed: This class has no such disk, or does not answer.
        """


class Storage(BlockStorage, Protocol):
    """The disks of machines, in one storage class or in all of a host.

    A disk is named by `DiskRef`; paths, pools and images are the driver's own. All calls that make
    something leave nothing behind when they fail or are cancelled.
    """

    async def create(self, ref: DiskRef, size: int) -> None:
        """Make an empty disk of `size` bytes, rounded up to whole sectors of 512 bytes.

        Raises:
            InputError: No disk can have this size.
            StorageFailed: No space, or there is one of this name, which stays as it was.
        """

    async def clone(self, ref: DiskRef, image: Image, size: int | None) -> None:
        """Make a disk that begins as an image, `size` bytes in all (None: as many as the image).

        Raises:
            InputError: `size` is smaller than the image, or the image has no disk.
            StorageFailed: As in `create`.
        """

    async def child(self, ref: DiskRef, parent: DiskRef) -> None:
        """Make a disk that begins as another one, of the same size; nobody writes that any more.

        Raises:
            StorageFailed: As in `create`, or the parent is missing.
        """

    async def grow(self, ref: DiskRef, size: int) -> None:
        """Give a disk that no machine has open `size` bytes; what is in it stays.

        Raises:
            InputError: It is larger already, or no disk can have this size.
            StorageFailed: It is missing, or cannot grow so far in place.
        """

    async def seed(self, ref: DiskRef, files: Mapping[str, bytes]) -> None:
        """Make a CD with these files for cloud-init, instead of what is there.

        The same files make the same bytes.

        Raises:
            StorageFailed: No space; what was there before stays.
        """

    async def exists(self, ref: DiskRef) -> bool:
        """True if there is such a disk."""

    async def virtual_size(self, ref: DiskRef) -> int | None:
        """Return the bytes that a guest sees of a disk; None when there is none.

        Its guest may have had a hand in it: to be compared, and nothing more.
        """

    async def sizes(self, key: str) -> Mapping[str, int]:
        """Return name -> virtual size of the writable disks of a machine."""

    async def usage(self, key: str) -> int:
        """Return the bytes that the disks of a machine take; 0 when it has none."""

    async def machines(self) -> Sequence[str]:
        """Return the keys of all machines that have disks here, sorted."""

    async def delete(self, ref: DiskRef) -> None:
        """Delete one disk of a machine (idempotent).

        Raises:
            StorageFailed: It is no machine's, or cannot be deleted.
        """

    async def discard(self, *keys: str) -> None:
        """Delete all disks of some machines, all at one time (idempotent)."""

    async def sweep(self, keep: Collection[str]) -> Sequence[str]:
        """Delete the disks of every machine but these; return the keys of those that went."""


class Images(Protocol):
    """Files of the image store. Names and rows are the inventory's; this keeps files by digest."""

    async def receive(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str = "",
        source: str = "",
        kernel_size: int | None = None,
        cmdline: str = "",
    ) -> Image:
        """Take an upload into the store.

        For `format=kernel`, the stream is the kernel (`kernel_size` bytes) and then the initramfs.

        Raises:
            ImageRefused: Unsafe, damaged, truncated, wrong digest. Nothing stays behind.
            StorageFailed: No space. Nothing stays behind.
        """

    async def download(
        self,
        name: str,
        url: str,
        *,
        format: ImageFormat | None,
        sha256: str = "",
        progress: Callable[[int, int | None], None],
    ) -> Image:
        """Take a URL (http, https) into the store, resuming what an earlier try left.

        `progress` is called with bytes so far and bytes in all (None: not known).

        Raises:
            ImageRefused, StorageFailed: As in `receive`.
            DownloadFailed: The partial file is kept for the next try.
        """

    async def build(self, recipe: str, name: str, progress: Callable[[str], None]) -> Image:
        """Build a named recipe (`tiny`); the same inputs come from the cache at once.

        Raises:
            InputError: There is no such recipe.
            CommandFailed: With the last words of the tool that failed.
        """

    async def discard(self, image: Image) -> None:
        """Delete the files of a digest (idempotent)."""

    def files(self, image: Image) -> Mapping[str, Path]:
        """Return part name (`disk`, `kernel`, `initrd`) -> path."""

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove what interrupted imports left and every digest not in `keep`; tell what went."""


class Checkpoints(Protocol):
    """The files of checkpoints, and frozen memory that is ready to be mapped."""

    async def stage(self, key: str) -> Path:
        """Return an empty folder to make a checkpoint in."""

    async def absorb(self, key: str, node: str, stream: Path) -> tuple[str, int, str]:
        """Take a node's stream in: digest of the memory, its bytes of data, digest of the state.

        Raises:
            StorageFailed: No room, or it is no such stream.
        """

    async def digest(self, key: str, name: str) -> str:
        """Return the digest of a file in the staged folder."""

    async def add_layer(self, ref: DiskRef) -> str:
        """Copy a disk that nobody writes any more into the store; return its digest."""

    def layer(self, digest: str) -> DiskRef:
        """Return the name of a layer. Pure."""

    def digest_of(self, ref: DiskRef) -> str:
        """Return the digest of a disk that `layer` named; empty for any other. Pure."""

    async def publish(self, record: CheckpointRecord) -> int:
        """Make what was staged durable and visible; return its bytes on disk."""

    async def verify(self, record: CheckpointRecord) -> None:
        """Raise StorageFailed unless all disk layers of a checkpoint are there and whole.

        Raises:
            StorageFailed: One is missing, or is not what it was; tells which.
        """

    async def incoming(self, record: CheckpointRecord, node: SavedNode) -> Incoming:
        """Return memory and state of a node; both descriptors are the caller's.

        Raises:
            StorageFailed: A file is missing, or is not what it was.
        """

    async def copy_file(self, key: str, name: str, target: Path) -> None:
        """Copy a small file out of a checkpoint."""

    def pack(self, record: CheckpointRecord) -> AsyncIterator[bytes]:
        """Yield a checkpoint as one stream, for another host.

        Raises:
            StorageFailed: A file cannot be read.
        """

    async def receive(self, key: str, name: str, chunks: AsyncIterator[bytes]) -> CheckpointRecord:
        """Take such a stream into the staged folder; `publish` makes it a checkpoint.

        Raises:
            InputError: It is none, is damaged, or has names in it that are no names.
            StorageFailed: No room.
        """

    async def discard(self, key: str) -> None:
        """Remove a checkpoint, or what was made of one (idempotent). Layers stay."""

    def collect(self, layers: Collection[str]) -> None:
        """Remove every layer but these; at once, for nothing may be in the making meanwhile."""

    async def sweep(self, keys: Collection[str], layers: Collection[str]) -> Sequence[str]:
        """Remove every checkpoint and layer but these, whole or half made; tell what went."""

    def trim(self, in_use: Collection[str]) -> None:
        """Let go of loaded memory that was idle, but for the checkpoints `in_use`."""

    def loaded(self) -> Mapping[str, int]:
        """Return checkpoint key -> bytes of memory that are loaded for it."""

    def close(self) -> None:
        """Let go of all loaded memory."""
