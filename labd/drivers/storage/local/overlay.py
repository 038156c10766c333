"""Overlays without a process: the bytes of a fresh qcow2 file, written by labd itself.

Layout (docs/interop/qcow2.txt), clusters of 64 KiB: header, refcount table, refcount blocks, L1
table. There is no data and no L2 table yet, and all zeros of the L1 table stay a hole in the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from labd.images.headers import MAX_VIRTUAL_SIZE, SECTOR
from labd.model.errors import InputError, StorageFailed
from labd.model.units import format_size

CLUSTER = 64 << 10
_L2_COVERS = CLUSTER * (CLUSTER // 8)  # bytes of disk for one entry of the L1 table
_REFCOUNTS_A_BLOCK = CLUSTER // 2  # 16 bits each
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_HEADER_LENGTH = 112
_MAX_BACKING_NAME = 1023


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A fresh qcow2 file.

    Attributes:
        head: What to write at the start.
        length: Bytes that the file has in all; what `head` leaves is zeros.
    """

    head: bytes
    length: int


def overlay_header(backing_path: str, backing_format: str, virtual_size: int) -> bytes:
    """Return the first bytes of an overlay; see `fresh`."""
    return fresh(virtual_size, backing_path, backing_format).head


def fresh(virtual_size: int, backing_path: str = "", backing_format: str = "") -> Fresh:
    """Return an empty qcow2 (version 3) of `virtual_size` bytes.

    Args:
        virtual_size: Bytes, a multiple of 512, at most 64 TiB.
        backing_path: Recorded for people and tools; labd gives QEMU the chain explicitly. Empty:
            a disk of its own.
        backing_format: `raw` or `qcow2`, recorded so that nobody has to probe.

    Raises:
        InputError: The size or the path cannot be stored.
    """
    if virtual_size <= 0 or virtual_size % SECTOR or virtual_size > MAX_VIRTUAL_SIZE:
        raise InputError(
            f"a disk of {virtual_size} bytes cannot be made: choose a multiple of 512, at most "
            f"{format_size(MAX_VIRTUAL_SIZE)}"
        )
    name = backing_path.encode()
    if len(name) > _MAX_BACKING_NAME:
        raise InputError(
            f"the path of the base image has {len(name)} bytes, qcow2 stores {_MAX_BACKING_NAME}; "
            "choose a shorter root folder"
        )
    l1_entries = -(-virtual_size // _L2_COVERS)
    l1_clusters = -(-l1_entries * 8 // CLUSTER)
    # One block counts 32768 clusters; the 64 TiB limit needs under 20 of them: always one block.
    clusters = 3 + l1_clusters
    extensions = _extension(_EXTENSION_BACKING_FORMAT, backing_format.encode()) if name else b""
    extensions += struct.pack(">II", 0, 0)
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        3,
        _HEADER_LENGTH + len(extensions) if name else 0,
        len(name),
        CLUSTER.bit_length() - 1,
        virtual_size,
        0,  # not encrypted
        l1_entries,
        3 * CLUSTER,
        CLUSTER,
        1,  # refcount table clusters
        0,  # snapshots
        0,
    )
    # No feature bits; refcounts of 2^4 bits; length; compression type zlib with its padding.
    header += struct.pack(">QQQIIB7x", 0, 0, 0, 4, _HEADER_LENGTH, 0)
    refcount_table = struct.pack(">Q", 2 * CLUSTER)
    refcounts = struct.pack(">H", 1) * clusters
    parts = (header + extensions + name, refcount_table, refcounts)
    head = b"".join(part.ljust(CLUSTER, b"\0") for part in parts[:2]) + parts[2]
    return Fresh(head=head, length=clusters * CLUSTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Bytes to write into a qcow2 file, at an offset."""

    at: int
    data: bytes


def grown_header(head: bytes, size: int) -> Change | None:
    """Return what makes a qcow2 file larger; None when it has that size.

    An L1 table has its clusters to itself, so it may use all of what it has begun; the rest of its
    last cluster is zeros, which say "nothing here". One cluster covers 4 TiB.

    Args:
        head: The first 48 bytes of the file.
        size: Bytes that it shall have, a multiple of 512.

    Raises:
        InputError: It is larger already, or no disk can have this size.
        StorageFailed: It is no qcow2 of labd's making, or its L1 table has no room for more.
    """
    if len(head) < 48 or not head.startswith(b"QFI\xfb"):
        raise StorageFailed("the disk is no qcow2 file; destroy the lab and start anew")
    bits, has, _, entries = struct.unpack_from(">IQII", head, 20)
    if size < has or size > MAX_VIRTUAL_SIZE or size % SECTOR:
        raise InputError(
            f"a disk of {format_size(has)} cannot become {format_size(size)}: choose a larger one, "
            f"at most {format_size(MAX_VIRTUAL_SIZE)}"
        )
    wanted = -(-size // _L2_COVERS)
    room = -(-max(entries, 1) * 8 // CLUSTER) * CLUSTER
    if 1 << bits != CLUSTER or wanted * 8 > room:
        raise StorageFailed(
            f"the disk cannot grow to {format_size(size)} in place; make a new one of that size"
        )
    if size == has:
        return None
    # Size, encryption, L1 entries: one write, so that there is no moment in between.
    return Change(at=24, data=struct.pack(">QII", size, 0, max(wanted, entries)))


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
