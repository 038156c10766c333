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
from labd.model.images import Image, ImageFormat


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

    async def make_overlay(self, image: Image, path: Path, size: int | None) -> None:
        """Make a qcow2 overlay on the image's disk at `path` (0600), `size` bytes virtual.

        Raises:
            InputError: `size` is smaller than the image.
            StorageFailed: No space; nothing stays behind.
        """

    async def make_child(self, parent: Path, path: Path) -> None:
        """Make a qcow2 overlay of the same size on another one at `path` (0600)."""

    async def make_blank(self, path: Path, size: int) -> None:
        """Make an empty qcow2 disk of `size` bytes at `path` (0600)."""

    async def make_seed(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Make a CD with these files for cloud-init at `path` (0600), instead of what is there.

        The same files make the same bytes.

        Raises:
            StorageFailed: No space; what was there before stays.
        """

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

    async def add_layer(self, path: Path) -> str:
        """Copy a disk file that nobody writes any more into the store; return its digest."""

    def layer(self, digest: str) -> Path:
        """Return the path of a layer. Pure."""

    def digest_of(self, path: Path) -> str:
        """Return the digest of a path that `layer` gave; empty for any other. Pure."""

    async def publish(self, record: CheckpointRecord) -> int:
        """Make what was staged durable and visible; return its bytes on disk."""

    async def verify(self, record: CheckpointRecord) -> None:
        """Return when all disk layers of a checkpoint are there and whole.

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
