"""Disks of other makers: VMDK, VDI, VHD and VHDX, and what in their headers names another file.

labd looks here before any tool opens the file. What passes is converted to qcow2 in a jail
(`labd.images.convert`), which holds even when this here is wrong. The layouts are from VMware's
"Virtual Disk Format 5.0", QEMU's block/vdi.c, Microsoft's "Virtual Hard Disk Image Format
Specification" and [MS-VHDX].

Bytes in, a format or `ImageRefused` out; no file is opened here.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from labd.images.headers import MAX_VIRTUAL_SIZE, SECTOR
from labd.model.errors import ImageRefused
from labd.model.units import format_size

Read = Callable[[int, int], bytes]
"""Return at most so many bytes from an offset on: `read(offset, length)`."""

_VDI_AT, _VDI_MAGIC = 0x40, b"\x7f\x10\xda\xbe"
_VHD_MAGIC = b"conectix"
_VDI_KINDS = (1, 2)  # dynamic and static; the others need a parent
_VHD_KINDS, _VHD_DIFFERENCING = (2, 3), 4  # fixed and dynamic
_MAX_DESCRIPTOR = 64 << 10  # bytes
_REGIONS_AT, _TABLE = 192 << 10, 64 << 10
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_HAS_PARENT = 2

_EXTENT = re.compile(rb"^\s*(?:RW|RDONLY|NOACCESS)\s", re.MULTILINE)
_PARENT = re.compile(rb"^\s*parentFileNameHint\s*=", re.MULTILINE)
_PARENT_ID = re.compile(rb"^\s*parentCID\s*=\s*(\S+)", re.MULTILINE)


class Foreign(StrEnum):
    """Formats that labd converts; the value is QEMU's name of the driver."""

    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VHD = "vpc"


NAMES: Final = {Foreign.VMDK: "VMDK", Foreign.VDI: "VDI", Foreign.VHDX: "VHDX", Foreign.VHD: "VHD"}


def detect(head: bytes, tail: bytes) -> Foreign | None:
    """Return what a disk is by its first bytes and its last 512; None for nothing of these."""
    if head.startswith(b"KDMV"):
        return Foreign.VMDK
    if head.startswith(b"vhdxfile"):
        return Foreign.VHDX
    if head[_VDI_AT : _VDI_AT + 4] == _VDI_MAGIC:
        return Foreign.VDI
    if head.startswith(_VHD_MAGIC) or tail.startswith(_VHD_MAGIC):
        return Foreign.VHD
    return None


def check(kind: Foreign, read: Read, size: int) -> None:
    """Raise ImageRefused unless the disk is one file of a sane size.

    Args:
        kind: What `detect` said.
        read: Reads the file.
        size: Bytes of the file.

    Raises:
        ImageRefused: It names another file, is cut off, or claims an absurd size.
    """
    try:
        virtual = _CHECKS[kind](read, size)
    except struct.error as error:
        raise ImageRefused(f"the {NAMES[kind]} header is truncated; send it again") from error
    if not 0 < virtual <= MAX_VIRTUAL_SIZE:
        raise ImageRefused(
            f"the {NAMES[kind]} disk claims a virtual size of {format_size(virtual)}; 1 byte to "
            f"{format_size(MAX_VIRTUAL_SIZE)} are possible; check the file and send it again"
        )


def _check_vmdk(read: Read, size: int) -> int:
    del size
    capacity, _, at, length = struct.unpack_from("<QQQQ", read(0, SECTOR), 12)
    # QEMU takes a header without a capacity for an envelope around a list of other files.
    if capacity == 0:
        raise _refused(Foreign.VMDK, "is spread over other files (extents)")
    if length * SECTOR > _MAX_DESCRIPTOR:
        raise ImageRefused(
            f"the VMDK descriptor has {format_size(length * SECTOR)}, and "
            f"{format_size(_MAX_DESCRIPTOR)} are possible; check the file and send it again"
        )
    text = read(at * SECTOR, length * SECTOR) if at else b""
    parent = _PARENT_ID.search(text)
    if _PARENT.search(text) or (parent is not None and parent[1].lower() != b"ffffffff"):
        raise _refused(Foreign.VMDK, "has a parent")
    if len(_EXTENT.findall(text)) > 1:
        raise _refused(Foreign.VMDK, "is spread over other files (extents)")
    return int(capacity) * SECTOR


def _check_vdi(read: Read, size: int) -> int:
    del size
    head = read(0, SECTOR)
    (kind,) = struct.unpack_from("<I", head, 0x4C)
    (virtual,) = struct.unpack_from("<Q", head, 0x170)
    if kind not in _VDI_KINDS or head[0x1B8:0x1C8] != bytes(16):
        raise _refused(Foreign.VDI, "has a parent")
    return int(virtual)


def _check_vhd(read: Read, size: int) -> int:
    footer = read(0, SECTOR)
    if not footer.startswith(_VHD_MAGIC):
        footer = read(size - SECTOR, SECTOR)
    (virtual,) = struct.unpack_from(">Q", footer, 48)
    (kind,) = struct.unpack_from(">I", footer, 60)
    if kind == _VHD_DIFFERENCING:
        raise _refused(Foreign.VHD, "has a parent")
    if kind not in _VHD_KINDS:
        raise ImageRefused(
            f"the VHD header is damaged: its type is {kind}, and 2 or 3 are possible; "
            "check the file and send it again"
        )
    return int(virtual)


def _check_vhdx(read: Read, size: int) -> int:
    del size
    table = read(_REGIONS_AT, _TABLE)
    region = _find(table, b"regi", "<I", 8, 16, _METADATA)
    (at,) = struct.unpack_from("<Q", region, 16)
    metadata = read(at, _TABLE)
    flags = _item(read, at, metadata, _PARAMETERS, "<4xI")
    if flags & _HAS_PARENT:
        raise _refused(Foreign.VHDX, "has a parent")
    return _item(read, at, metadata, _SIZE, "<Q")


def _item(read: Read, at: int, table: bytes, what: uuid.UUID, form: str) -> int:
    entry = _find(table, b"metadata", "<H", 10, 32, what)
    (offset,) = struct.unpack_from("<I", entry, 16)
    (value,) = struct.unpack_from(form, read(at + offset, 8))
    return int(value)


def _find(table: bytes, magic: bytes, form: str, at: int, first: int, what: uuid.UUID) -> bytes:
    """Return the 32 bytes of an entry of a table of VHDX."""
    (count,) = struct.unpack_from(form, table, at)
    if table.startswith(magic):
        for begin in range(first, min(first + count * 32, len(table) - 31), 32):
            if table[begin : begin + 16] == what.bytes_le:
                return table[begin : begin + 32]
    raise ImageRefused("the VHDX header is damaged: a table is missing; send the file again")


def _refused(kind: Foreign, why: str) -> ImageRefused:
    return ImageRefused(
        f"the {NAMES[kind]} disk {why}, and labd does not follow it; make it one file with "
        "qemu-img convert -O qcow2 where all of it is"
    )


_CHECKS: Final[dict[Foreign, Callable[[Read, int], int]]] = {
    Foreign.VMDK: _check_vmdk,
    Foreign.VDI: _check_vdi,
    Foreign.VHDX: _check_vhdx,
    Foreign.VHD: _check_vhd,
}
