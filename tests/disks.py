"""Disks of tests that are files of their own, wherever a test has put them."""

from __future__ import annotations

from pathlib import Path

from labd.host.plain_file import open_file
from labd.host.threads import quick
from labd.model.disks import BlockAttachment, DiskKind, DiskRef

FILES = "files"  # the storage class, whose names are paths


def at(path: Path) -> DiskRef:
    """Return the name of a disk that is a file."""
    return DiskRef(kind=DiskKind.MACHINE, key="file", name=str(path), storage=FILES)


def path_of(ref: DiskRef) -> Path:
    """Return the path of a disk that `at` named."""
    assert ref.storage == FILES
    return Path(ref.name)


class FileDisks:
    """Implements the port `BlockStorage` for such disks."""

    async def attach(self, ref: DiskRef, *, writable: bool) -> BlockAttachment:
        """Open the file."""
        return BlockAttachment(fd=await quick(open_file, path_of(ref), writable=writable))
