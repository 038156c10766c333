"""Disks as attackers make them: each with what labd must say, or that it is harmless.

The canary is a file that all may read and that each of these would have somebody open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labd.model.images import ImageFormat
from tests.hostile.makers import descriptor, external_data, iso, qcow2, raw, vdi, vhd, vhdx, vmdk


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One file.

    Attributes:
        name: For people.
        make: Its bytes, given the canary's path.
        says: labd's message, up to `…` where QEMU's words follow. Empty: it is taken, for nothing
            in it can do harm.
        format: What the one who sends it says it is.
    """

    name: str
    make: Callable[[str], bytes]
    says: str
    format: ImageFormat | None = None


_BACKING = (
    "the qcow2 image has a backing file, and labd does not follow it; merge them into one with "
    "qemu-img convert -O qcow2"
)
_DATA = (
    "the qcow2 image keeps its data in an external file, and labd does not follow it; make it one "
    "file with qemu-img convert -O qcow2"
)
_SECRET = "the qcow2 image is encrypted; decrypt it with qemu-img convert and its secret first"


def _other(kind: str, why: str) -> str:
    return (
        f"the {kind} disk {why}, and labd does not follow it; make it one file with "
        "qemu-img convert -O qcow2 where all of it is"
    )


def _size(kind: str, size: str) -> str:
    return (
        f"the {kind} disk claims a virtual size of {size}; 1 byte to 64 TiB are possible; "
        "check the file and send it again"
    )


def _flat(canary: str) -> str:
    return f'RW 2048 FLAT "{canary}" 0'


_EXTENTS = "is spread over other files (extents)"
DISKS: tuple[Hostile, ...] = (
    Hostile(name="backing file", make=qcow2, says=_BACKING),
    Hostile(name="backing /etc/shadow", make=lambda _: qcow2("/etc/shadow"), says=_BACKING),
    Hostile(
        name="backing json:",
        make=lambda c: qcow2(
            f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{c}"}}}}'
        ),
        says=_BACKING,
    ),
    Hostile(
        name="backing nbd:", make=lambda _: qcow2("nbd:127.0.0.1:9:exportname=x"), says=_BACKING
    ),
    Hostile(name="backing ssh:", make=lambda _: qcow2("ssh://root@127.0.0.1/x"), says=_BACKING),
    Hostile(name="backing fat:", make=lambda _: qcow2("fat:rw:/etc"), says=_BACKING),
    Hostile(
        name="backing by its length alone", make=lambda _: qcow2(backing_length=4), says=_BACKING
    ),
    Hostile(name="backing format alone", make=lambda _: qcow2(extension=0xE2792ACA), says=_BACKING),
    Hostile(name="external data file", make=external_data, says=_DATA),
    Hostile(
        name="external data by its bit alone", make=lambda _: qcow2(incompatible=4), says=_DATA
    ),
    Hostile(name="AES", make=lambda _: qcow2(crypt=1), says=_SECRET),
    Hostile(name="LUKS in qcow2", make=lambda _: qcow2(crypt=2), says=_SECRET),
    Hostile(
        name="qcow2 of 2^60",
        make=lambda _: qcow2(virtual=1 << 60),
        says=(
            "the disk claims a virtual size of 1048576 TiB, the limit is 64 TiB; shrink it "
            "with qemu-img resize --shrink"
        ),
    ),
    Hostile(
        name="qcow2 of 2^64 - 1",
        make=lambda _: qcow2(virtual=(1 << 64) - 1),
        says=(
            "the disk claims a virtual size of 16777216 TiB, the limit is 64 TiB; shrink it "
            "with qemu-img resize --shrink"
        ),
    ),
    Hostile(
        name="qcow2 of nothing",
        make=lambda _: qcow2(virtual=0),
        says="the disk has a virtual size of 0; make it anew with a size",
    ),
    Hostile(
        name="huge L1 table",
        make=lambda _: qcow2(l1_entries=(1 << 32) - 1),
        says=(
            "the qcow2 header is damaged: its L1 table has 4294967295 entries, its virtual "
            "size needs 1, the limit is 4194304; check it with qemu-img check"
        ),
    ),
    Hostile(
        name="L1 table beyond the file",
        make=lambda _: qcow2(l1_offset=1 << 62),
        says=(
            "the qcow2 image is truncated: its L1 table ends at byte 4611686018427387912, "
            "the file has 262144 bytes; send it again"
        ),
    ),
    Hostile(
        name="L1 table on the header",
        make=lambda _: qcow2(l1_offset=0),
        says=(
            "the qcow2 header is damaged: its L1 table is at byte 0, which is no cluster of "
            "its own; check the file with qemu-img check"
        ),
    ),
    Hostile(
        name="L1 table of another cluster",
        make=lambda _: qcow2(l1_offset=12345),
        says=(
            "the qcow2 header is damaged: its L1 table is at byte 12345, which is no "
            "cluster of its own; check the file with qemu-img check"
        ),
    ),
    Hostile(
        name="no L1 table",
        make=lambda _: qcow2(l1_entries=0),
        says=(
            "the qcow2 header is damaged: its L1 table has 0 entries, its virtual size "
            "needs 1, the limit is 4194304; check it with qemu-img check"
        ),
    ),
    Hostile(
        name="huge refcounts",
        make=lambda _: qcow2(reftable_clusters=(1 << 32) - 1),
        says=(
            "the qcow2 header is damaged: its refcount table has 4294967295 clusters; check "
            "the file with qemu-img check"
        ),
    ),
    Hostile(
        name="refcounts of 2^255 bits",
        make=lambda _: qcow2(refcount_order=255),
        says=(
            "the qcow2 header is damaged: refcount_order is 255, and 0 to 6 are possible; "
            "check the file with qemu-img check"
        ),
    ),
    Hostile(
        name="4 billion snapshots",
        make=lambda _: qcow2(snapshots=(1 << 32) - 1),
        says=(
            "the qcow2 header is damaged: it claims 4294967295 snapshots; check the file "
            "with qemu-img check"
        ),
    ),
    Hostile(
        name="snapshots beyond the file",
        make=lambda _: qcow2(snapshots=9, snapshots_offset=1 << 40),
        says=(
            "the qcow2 image is truncated: its snapshot table ends at byte 1099511628136, "
            "the file has 262144 bytes; send it again"
        ),
    ),
    Hostile(
        name="clusters of 2^0",
        make=lambda _: qcow2(cluster_bits=0),
        says=(
            "the qcow2 header is damaged: cluster_bits is 0, and 9 to 21 are possible; "
            "check the file with qemu-img check"
        ),
    ),
    Hostile(
        name="clusters of 2^63",
        make=lambda _: qcow2(cluster_bits=63),
        says=(
            "the qcow2 header is damaged: cluster_bits is 63, and 9 to 21 are possible; "
            "check the file with qemu-img check"
        ),
    ),
    Hostile(
        name="header of 4 GiB",
        make=lambda _: qcow2(header_length=(1 << 32) - 8),
        says=(
            "the qcow2 header is damaged: its length is 4294967288 bytes; check the file "
            "with qemu-img check"
        ),
    ),
    Hostile(
        name="extension of 4 GiB",
        make=lambda _: qcow2(extension=1, extension_length=(1 << 32) - 1),
        says=(
            "the qcow2 header is damaged: an extension reaches beyond the header; check the "
            "file with qemu-img check"
        ),
    ),
    Hostile(
        name="unknown features",
        make=lambda _: qcow2(incompatible=1 << 63),
        says=(
            "the qcow2 image needs features that labd does not know (bits "
            "0x8000000000000000); convert it with qemu-img convert -O qcow2"
        ),
    ),
    Hostile(
        name="marked corrupt",
        make=lambda _: qcow2(incompatible=2),
        says="the qcow2 image is marked corrupt; repair it with qemu-img check -r all first",
    ),
    Hostile(
        name="qcow version 1",
        make=lambda _: qcow2(version=1),
        says=(
            "the image is qcow version 1, and labd takes 2 and 3; convert it with qemu-img "
            "convert -O qcow2"
        ),
    ),
    Hostile(
        name="qcow2 cut off",
        make=lambda _: qcow2()[:80],
        says="the qcow2 header is truncated: the file has 80 bytes; send it again",
    ),
    Hostile(
        name="qcow2 said to be raw",
        make=qcow2,
        says="the image is declared raw but is a qcow2 file; import it as qcow2",
        format=ImageFormat.RAW,
    ),
    Hostile(
        name="raw said to be qcow2",
        make=lambda _: raw(b""),
        says=(
            "the image is declared qcow2 but does not begin with its magic (QFI\\xfb); "
            "leave the format out to have it found out"
        ),
        format=ImageFormat.QCOW2,
    ),
    Hostile(
        name="qcow2 said to be an ISO",
        make=qcow2,
        says=(
            "the image is declared iso but has no ISO 9660 volume (CD001 at byte 32769); "
            "leave the format out to have it found out"
        ),
        format=ImageFormat.ISO,
    ),
    Hostile(name="qcow2 in a raw disk", make=lambda c: raw(qcow2(c)[:4096], 65536), says=""),
    Hostile(
        name="VMDK descriptor",
        make=lambda c: descriptor(_flat(c)).encode(),
        says="the image is a VMDK descriptor; convert the disk that it names to qcow2 first",
    ),
    Hostile(
        name="VMDK envelope around extents",
        make=lambda c: vmdk(descriptor(_flat(c)), capacity=0),
        says=_other("VMDK", _EXTENTS),
    ),
    Hostile(
        name="VMDK of two extents",
        make=lambda c: vmdk(descriptor(f'RW 2048 SPARSE "x"\n{_flat(c)}')),
        says=_other("VMDK", _EXTENTS),
    ),
    Hostile(
        name="VMDK with a parent",
        make=lambda c: vmdk(descriptor('RW 2048 SPARSE "x"', "0badcafe", c)),
        says=_other("VMDK", "has a parent"),
    ),
    Hostile(
        name="VMDK of 2^60",
        make=lambda _: vmdk(descriptor('RW 1 SPARSE "x"'), capacity=1 << 51),
        says=_size("VMDK", "1048576 TiB"),
    ),
    Hostile(
        name="VMDK with a descriptor of 2^64",
        make=lambda _: vmdk("", sectors=1 << 55),
        says=(
            "the VMDK descriptor has 16777216 TiB, and 64 KiB are possible; check the file "
            "and send it again"
        ),
    ),
    Hostile(
        name="VMDK without tables",
        make=lambda _: vmdk(descriptor('RW 2048 SPARSE "x"'))[:1024],
        says="the VMDK disk cannot be converted: …",
    ),
    Hostile(
        name="VMDK of version 3",
        make=lambda _: raw(b"COWD"),
        says="the image is a VMDK disk; convert it to qcow2 with qemu-img convert first",
    ),
    Hostile(
        name="VMDK said to be raw",
        make=lambda _: raw(b"KDMV"),
        says="the image is a VMDK disk; convert it to qcow2 with qemu-img convert first",
        format=ImageFormat.RAW,
    ),
    Hostile(
        name="VDI with a parent", make=lambda _: vdi(kind=4), says=_other("VDI", "has a parent")
    ),
    Hostile(
        name="VDI with a parent's id",
        make=lambda _: vdi(parent=b"\1" * 16),
        says=_other("VDI", "has a parent"),
    ),
    Hostile(name="VDI of 2^60", make=lambda _: vdi(1 << 60), says=_size("VDI", "1048576 TiB")),
    Hostile(
        name="VDI of 4 billion blocks",
        make=lambda _: vdi(blocks=(1 << 32) - 1),
        says="the VDI disk cannot be converted: …",
    ),
    Hostile(
        name="VDI cut off",
        make=lambda _: vdi()[:100],
        says="the VDI header is truncated; send it again",
    ),
    Hostile(
        name="VHD with a parent", make=lambda _: vhd(kind=4), says=_other("VHD", "has a parent")
    ),
    Hostile(name="VHD of 2^60", make=lambda _: vhd(1 << 60), says=_size("VHD", "1048576 TiB")),
    Hostile(
        name="VHD of no kind",
        make=lambda _: vhd(kind=77),
        says=(
            "the VHD header is damaged: its type is 77, and 2 or 3 are possible; check the "
            "file and send it again"
        ),
    ),
    Hostile(
        name="VHDX with a parent", make=lambda _: vhdx(flags=2), says=_other("VHDX", "has a parent")
    ),
    Hostile(
        name="VHDX of 2^60", make=lambda _: vhdx(size=1 << 60), says=_size("VHDX", "1048576 TiB")
    ),
    Hostile(
        name="VHDX with tables at 2^63",
        make=lambda _: vhdx(at=1 << 63),
        says="the VHDX header is truncated; send it again",
    ),
    Hostile(
        name="VHDX cut off",
        make=lambda _: vhdx()[: 1 << 16],
        says="the VHDX header is truncated; send it again",
    ),
    Hostile(
        name="VHDX without a log",
        make=lambda _: vhdx(),
        says="the VHDX disk cannot be converted: …",
    ),
    Hostile(
        name="QED with a backing file",
        make=lambda _: raw(b"QED\0"),
        says="the image is a QED disk; convert it to qcow2 with qemu-img convert first",
    ),
    Hostile(
        name="LUKS",
        make=lambda _: raw(b"LUKS\xba\xbe"),
        says="the image is an encrypted LUKS volume; decrypt it first",
    ),
    Hostile(
        name="gzip",
        make=lambda _: raw(b"\x1f\x8b"),
        says="the image is compressed with gzip; decompress it first (gunzip)",
    ),
    Hostile(
        name="xz",
        make=lambda _: raw(b"\xfd7zXZ\0"),
        says="the image is compressed with xz; decompress it first (unxz)",
    ),
    Hostile(
        name="zip",
        make=lambda _: raw(b"PK\x03\x04"),
        says="the image is a ZIP archive; unpack it first (unzip)",
    ),
    Hostile(
        name="OVA",
        make=lambda _: raw(b"ustar", 257),
        says=(
            "the image is a tar archive (an OVA?); unpack it first, and convert its disk to qcow2"
        ),
    ),
    Hostile(
        name="OVF",
        make=lambda _: raw(b'<?xml version="1.0"?><Envelope>'),
        says="the image is a web page or XML text; check the address that it came from",
    ),
    Hostile(
        name="half a sector",
        make=lambda _: bytes(513),
        says=(
            "the raw image has 513 bytes, which is no multiple of 512: it is truncated or "
            "no disk; check the file and send it again"
        ),
    ),
    Hostile(
        name="nothing",
        make=lambda _: b"",
        says="the image is empty (0 bytes); check the file and send it again",
    ),
    Hostile(
        name="ISO of 8 TiB",
        make=lambda _: iso((1 << 32) - 1),
        says=(
            "the ISO is truncated: its volume has 8796093020160 bytes, the file 34816; send "
            "it again"
        ),
    ),
    Hostile(
        name="ISO cut off",
        make=lambda _: iso(1)[:33000],
        says="the ISO is truncated: its volume descriptor is incomplete; send it again",
    ),
    Hostile(
        name="no kernel",
        make=lambda _: raw(b"MZ"),
        says=(
            "the kernel is no x86 Linux kernel (bzImage has 'HdrS' at byte 514); give the "
            "vmlinuz file of a distribution"
        ),
        format=ImageFormat.KERNEL,
    ),
)
