"""Write an initramfs: cpio's `newc` format (kernel: early-userspace/buffer-format.rst).

It is written here and not by cpio(1), for device nodes and owners then need no privilege, and the
same entries always give the same bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the archive, owned by root.

    Attributes:
        path: Without a leading slash.
        mode: Type and permission bits, as in `stat.st_mode`.
        data: Contents of a file, or target of a symbolic link.
        device: Major and minor number of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str, permissions: int = 0o755) -> Entry:
    """Return the entry of a folder."""
    return Entry(path=path, mode=stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """Return the entry of a regular file."""
    return Entry(path=path, mode=stat.S_IFREG | permissions, data=data)


def link(path: str, target: str) -> Entry:
    """Return the entry of a symbolic link."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """Return the entry of a character device."""
    return Entry(path=path, mode=stat.S_IFCHR | permissions, device=(major, minor))


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with every missing parent folder put before its children.

    The kernel's unpacker makes no folder by itself.
    """
    known: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            known.setdefault(parent, folder(parent))
        known[entry.path] = entry
    return list(known.values())


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of the entries, in their order."""
    out = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _append(out, inode, entry)
    _append(out, 0, Entry(path="TRAILER!!!", mode=0))
    return bytes(out)


def _append(out: bytearray, inode: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # major and minor of the device that holds the file
        0,
        *entry.device,
        len(name),
        0,  # no checksum in this variant
    )
    out += b"070701" + b"".join(b"%08X" % field for field in fields)
    out += name
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)
