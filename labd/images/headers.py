"""Look at the first bytes of an image, and decide whether labd may give it to QEMU.

Nothing here trusts a tool to probe: QEMU and qemu-img would follow a backing file, an external data
file or a VMDK extent to any file of the host. The layouts are from QEMU's docs/interop/qcow2.txt,
ECMA-119 (ISO 9660) and the kernel's Documentation/x86/boot.rst.

Bytes in, facts or `ImageRefused` out; no file is opened here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from labd.model.errors import ImageRefused
from labd.model.images import ImageFormat
from labd.model.units import TIB, format_size

HEAD_SIZE = 64 << 10
"""Bytes of the start of a file that `inspect` wants to see (all of a shorter one)."""

MAX_VIRTUAL_SIZE = 64 * TIB
SECTOR = 512

_QCOW2_MAGIC = b"QFI\xfb"
_ISO_AT, _ISO_MAGIC = 32769, b"CD001"
_INCOMPATIBLE_DIRTY, _INCOMPATIBLE_CORRUPT, _INCOMPATIBLE_DATA_FILE = 1, 2, 4
_INCOMPATIBLE_COMPRESSION, _INCOMPATIBLE_EXTENDED_L2 = 8, 16
_KNOWN_INCOMPATIBLE = 31
_EXTENSION_DATA_FILE, _EXTENSION_BACKING_FORMAT = 0x44415441, 0xE2792ACA
_EXTENSION_FULL_DISK_ENCRYPTION = 0x0537BE77
_MAX_L1_BYTES = 32 << 20  # QCOW_MAX_L1_SIZE of QEMU's block/qcow2.h
_MAX_REFTABLE_BYTES = 8 << 20  # QCOW_MAX_REFTABLE_SIZE
_MAX_SNAPSHOTS = 65536

# What a file that is said to be raw must not begin with, and what to do about it.
_FOREIGN = (
    (b"KDMV", "a VMDK disk", "convert it to qcow2 with qemu-img convert first"),
    (b"COWD", "a VMDK disk", "convert it to qcow2 with qemu-img convert first"),
    (
        b"# Disk DescriptorFile",
        "a VMDK descriptor",
        "convert the disk that it names to qcow2 first",
    ),
    (b"<<< ", "a VirtualBox disk (VDI)", "convert it to qcow2 with qemu-img convert first"),
    (b"vhdxfile", "a VHDX disk", "convert it to qcow2 with qemu-img convert first"),
    (b"conectix", "a VHD disk", "convert it to qcow2 with qemu-img convert first"),
    (b"QED\0", "a QED disk", "convert it to qcow2 with qemu-img convert first"),
    (b"LUKS\xba\xbe", "an encrypted LUKS volume", "decrypt it first"),
    (b"\x1f\x8b", "compressed with gzip", "decompress it first (gunzip)"),
    (b"\xfd7zXZ\0", "compressed with xz", "decompress it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first (unzstd)"),
    (b"BZh", "compressed with bzip2", "decompress it first (bunzip2)"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it first (unzip)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first (7z x)"),
)
# cpio (newc and crc), and gzip, xz, zstd, bzip2, lz4 (legacy and frame), lzo, lzma.
_INITRD_MAGICS = (
    b"070701",
    b"070702",
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"\x02\x21\x4c\x18",
    b"\x04\x22\x4d\x18",
    b"\x89LZO",
    b"\x5d\0\0",
)
_TAR_AT, _TAR_MAGIC = 257, b"ustar"
_TEXT = (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML", b"<?xml", b"<Envelope")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an image is.

    Attributes:
        virtual_size: Bytes that the guest sees; 0 for a kernel.
    """

    format: ImageFormat
    virtual_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Qcow2:
    """The header of a qcow2 file; offsets and sizes in bytes unless named otherwise."""

    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    reftable_offset: int
    reftable_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int
    refcount_order: int
    header_length: int


def detect(head: bytes) -> ImageFormat:
    """Return what a disk looks like by its first bytes: qcow2, ISO, or else raw."""
    if head.startswith(_QCOW2_MAGIC):
        return ImageFormat.QCOW2
    if head[_ISO_AT : _ISO_AT + len(_ISO_MAGIC)] == _ISO_MAGIC and _boot_record_free(head):
        return ImageFormat.ISO
    return ImageFormat.RAW


def _boot_record_free(head: bytes) -> bool:
    # No disk image with a foreign magic in front is an ISO, whatever stands at 32769.
    return not any(head.startswith(magic) for magic, _, _ in _FOREIGN)


def inspect(head: bytes, size: int, format: ImageFormat | None, *, tail: bytes = b"") -> Facts:
    """Check the image and return what it is.

    Args:
        head: The first `HEAD_SIZE` bytes of the file.
        size: Length of the file in bytes.
        format: What it was declared to be; None: found out by `detect`.
        tail: The last 512 bytes, where a fixed-size VHD has its magic.

    Raises:
        ImageRefused: Unsafe, damaged, or not what it was declared to be; the message says what to
            do about it.
    """
    if size == 0:
        raise ImageRefused("the image is empty (0 bytes); check the file and send it again")
    actual = format or detect(head)
    if actual is ImageFormat.QCOW2:
        return _inspect_qcow2(head, size)
    if actual is ImageFormat.ISO:
        return _inspect_iso(head, size)
    if actual is ImageFormat.KERNEL:
        check_kernel(head, size)
        return Facts(format=ImageFormat.KERNEL, virtual_size=0)
    return _inspect_raw(head, size, tail)


def check_kernel(head: bytes, size: int) -> None:
    """Raise ImageRefused unless the file is an x86 Linux kernel (bzImage).

    Raises:
        ImageRefused: It is not.
    """
    if size < 0x1000 or head[0x202:0x206] != b"HdrS":
        problem = _foreign(head, b"")
        raise ImageRefused(
            f"the kernel is {problem[0]}; {problem[1]}"
            if problem
            else "the kernel is no x86 Linux kernel (bzImage has 'HdrS' at byte 514); "
            "give the vmlinuz file of a distribution"
        )


def check_initrd(head: bytes, size: int) -> None:
    """Raise ImageRefused unless the file can be an initramfs: cpio, or compressed as kernels know.

    Raises:
        ImageRefused: It is not.
    """
    if size and not head.startswith(_INITRD_MAGICS):
        raise ImageRefused(
            "the initramfs is neither a cpio archive (newc) nor a compressed one; "
            "make it with cpio -H newc, or give the initrd.img file of a distribution"
        )


def _foreign(head: bytes, tail: bytes) -> tuple[str, str] | None:
    for magic, what, advice in _FOREIGN:
        if head.startswith(magic):
            return what, advice
    if tail.startswith(b"conectix"):
        return "a VHD disk", "convert it to qcow2 with qemu-img convert first"
    if head[_TAR_AT : _TAR_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return "a tar archive (an OVA?)", "unpack it first, and convert its disk to qcow2"
    if head.lstrip().startswith(_TEXT):
        return "a web page or XML text", "check the address that it came from"
    return None


def _inspect_raw(head: bytes, size: int, tail: bytes) -> Facts:
    if head.startswith(_QCOW2_MAGIC):
        raise ImageRefused("the image is declared raw but is a qcow2 file; import it as qcow2")
    if (problem := _foreign(head, tail)) is not None:
        raise ImageRefused(f"the image is {problem[0]}; {problem[1]}")
    if size % SECTOR:
        raise ImageRefused(
            f"the raw image has {size} bytes, which is no multiple of 512: it is truncated or no "
            "disk; check the file and send it again"
        )
    _check_virtual_size(size)
    return Facts(format=ImageFormat.RAW, virtual_size=size)


def _inspect_iso(head: bytes, size: int) -> Facts:
    if detect(head) is not ImageFormat.ISO:
        raise ImageRefused(
            "the image is declared iso but has no ISO 9660 volume (CD001 at byte 32769); "
            "leave the format out to have it found out"
        )
    if len(head) < 32768 + 2048:
        raise ImageRefused(
            "the ISO is truncated: its volume descriptor is incomplete; send it again"
        )
    # Volume space size and logical block size, both-endian, ECMA-119 8.4.8 and 8.4.10.
    (blocks,) = struct.unpack_from("<I", head, 32768 + 80)
    (block,) = struct.unpack_from("<H", head, 32768 + 128)
    if blocks * block > size:
        raise ImageRefused(
            f"the ISO is truncated: its volume has {blocks * block} bytes, the file {size}; "
            "send it again"
        )
    return Facts(format=ImageFormat.ISO, virtual_size=-(-size // SECTOR) * SECTOR)


def _check_virtual_size(size: int) -> None:
    if size == 0:
        raise ImageRefused("the disk has a virtual size of 0; make it anew with a size")
    if size > MAX_VIRTUAL_SIZE:
        raise ImageRefused(
            f"the disk claims a virtual size of {format_size(size)}, the limit is "
            f"{format_size(MAX_VIRTUAL_SIZE)}; shrink it with qemu-img resize --shrink"
        )


def _parse_qcow2(head: bytes, size: int) -> _Qcow2:
    if not head.startswith(_QCOW2_MAGIC):
        raise ImageRefused(
            "the image is declared qcow2 but does not begin with its magic (QFI\\xfb); "
            "leave the format out to have it found out"
        )
    if size < 72 or len(head) < 72:
        raise ImageRefused(
            f"the qcow2 header is truncated: the file has {size} bytes; send it again"
        )
    fields = struct.unpack_from(">IQIIQIIQQIIQ", head, 4)
    version = fields[0]
    if version not in (2, 3):
        raise ImageRefused(
            f"the image is qcow version {version}, and labd takes 2 and 3; "
            "convert it with qemu-img convert -O qcow2"
        )
    if version == 2:
        extra = (0, 4, 72)
    elif len(head) < 104:
        raise ImageRefused(
            f"the qcow2 header is truncated: the file has {size} bytes; send it again"
        )
    else:
        incompatible, order, length = struct.unpack_from(">Q16xII", head, 72)
        extra = (incompatible, order, length)
    return _Qcow2(
        version=version,
        backing_offset=fields[1],
        backing_length=fields[2],
        cluster_bits=fields[3],
        size=fields[4],
        crypt_method=fields[5],
        l1_entries=fields[6],
        l1_offset=fields[7],
        reftable_offset=fields[8],
        reftable_clusters=fields[9],
        snapshots=fields[10],
        snapshots_offset=fields[11],
        incompatible=extra[0],
        refcount_order=extra[1],
        header_length=extra[2],
    )


def _inspect_qcow2(head: bytes, size: int) -> Facts:
    header = _parse_qcow2(head, size)
    _check_references(header, _qcow2_extensions(head, header))
    _check_virtual_size(header.size)
    _check_tables(header, size)
    return Facts(format=ImageFormat.QCOW2, virtual_size=-(-header.size // SECTOR) * SECTOR)


def _qcow2_extensions(head: bytes, header: _Qcow2) -> frozenset[int]:
    """Return the types of the header extensions; which lie in the first cluster."""
    if not 9 <= header.cluster_bits <= 21:
        raise ImageRefused(
            f"the qcow2 header is damaged: cluster_bits is {header.cluster_bits}, and 9 to 21 are "
            "possible; check the file with qemu-img check"
        )
    cluster = 1 << header.cluster_bits
    if header.header_length < 72 or header.header_length > cluster or header.header_length % 8:
        raise ImageRefused(
            f"the qcow2 header is damaged: its length is {header.header_length} bytes; "
            "check the file with qemu-img check"
        )
    found: set[int] = set()
    at = header.header_length
    end = min(header.backing_offset or cluster, cluster, len(head))
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return frozenset(found)
        found.add(kind)
        at += 8 + -(-length // 8) * 8
    if at > end:
        raise ImageRefused(
            "the qcow2 header is damaged: an extension reaches beyond the header; "
            "check the file with qemu-img check"
        )
    return frozenset(found)


def _check_references(header: _Qcow2, extensions: frozenset[int]) -> None:
    """Refuse all by which the image would make QEMU open something else."""
    if header.backing_offset or header.backing_length or _EXTENSION_BACKING_FORMAT in extensions:
        raise ImageRefused(
            "the qcow2 image has a backing file, and labd does not follow it; merge them into one "
            "with qemu-img convert -O qcow2"
        )
    if header.incompatible & _INCOMPATIBLE_DATA_FILE or _EXTENSION_DATA_FILE in extensions:
        raise ImageRefused(
            "the qcow2 image keeps its data in an external file, and labd does not follow it; make "
            "it one file with qemu-img convert -O qcow2"
        )
    if header.crypt_method or _EXTENSION_FULL_DISK_ENCRYPTION in extensions:
        raise ImageRefused(
            "the qcow2 image is encrypted; decrypt it with qemu-img convert and its secret first"
        )
    if header.incompatible & _INCOMPATIBLE_CORRUPT:
        raise ImageRefused(
            "the qcow2 image is marked corrupt; repair it with qemu-img check -r all first"
        )
    if header.incompatible & ~_KNOWN_INCOMPATIBLE:
        raise ImageRefused(
            f"the qcow2 image needs features that labd does not know "
            f"(bits {header.incompatible & ~_KNOWN_INCOMPATIBLE:#x}); "
            "convert it with qemu-img convert -O qcow2"
        )


def _check_tables(header: _Qcow2, size: int) -> None:
    cluster = 1 << header.cluster_bits
    if header.refcount_order > 6:
        raise ImageRefused(
            f"the qcow2 header is damaged: refcount_order is {header.refcount_order}, and 0 to 6 "
            "are possible; check the file with qemu-img check"
        )
    entry = 16 if header.incompatible & _INCOMPATIBLE_EXTENDED_L2 else 8
    needed = -(-header.size // (cluster * (cluster // entry)))
    if header.l1_entries < needed or header.l1_entries * 8 > _MAX_L1_BYTES:
        raise ImageRefused(
            f"the qcow2 header is damaged: its L1 table has {header.l1_entries} entries, its "
            f"virtual size needs {needed}, the limit is {_MAX_L1_BYTES // 8}; check it with "
            "qemu-img check"
        )
    if header.snapshots > _MAX_SNAPSHOTS:
        raise ImageRefused(
            f"the qcow2 header is damaged: it claims {header.snapshots} snapshots; "
            "check the file with qemu-img check"
        )
    reftable = header.reftable_clusters * cluster
    if not 0 < reftable <= _MAX_REFTABLE_BYTES:
        raise ImageRefused(
            f"the qcow2 header is damaged: its refcount table has {header.reftable_clusters} "
            "clusters; check the file with qemu-img check"
        )
    tables = [
        ("L1 table", header.l1_offset, header.l1_entries * 8),
        ("refcount table", header.reftable_offset, reftable),
    ]
    if header.snapshots:
        tables.append(("snapshot table", header.snapshots_offset, header.snapshots * 40))
    for name, offset, length in tables:
        _check_table(name, offset, length, size, cluster)


def _check_table(name: str, offset: int, length: int, size: int, cluster: int) -> None:
    if offset % cluster or offset < cluster:
        raise ImageRefused(
            f"the qcow2 header is damaged: its {name} is at byte {offset}, which is no cluster of "
            "its own; check the file with qemu-img check"
        )
    if offset + length > size:
        raise ImageRefused(
            f"the qcow2 image is truncated: its {name} ends at byte {offset + length}, the "
            f"file has {size} bytes; send it again"
        )
