"""Makers of disks in which an attacker has set what he likes."""

from __future__ import annotations

import struct
import uuid

from labd.drivers.storage.local.overlay import fresh
from labd.model.units import MIB

_CLUSTER, _COPIED = 64 << 10, 1 << 63
_HEADER = {  # docs/interop/qcow2.txt of QEMU
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_length": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "virtual": (24, ">Q"),
    "crypt": (32, ">I"),
    "l1_entries": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "reftable_offset": (48, ">Q"),
    "reftable_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "extension": (112, ">I"),
    "extension_length": (116, ">I"),
}


def qcow2(backing: str = "", /, *, size: int = MIB, **fields: int) -> bytes:
    """Return a qcow2 file of `size` bytes for the guest, some fields of its header overwritten."""
    plain = fresh(size, backing, "raw") if backing else fresh(size)
    data = bytearray(plain.head.ljust(plain.length, b"\0"))
    for name, value in fields.items():
        at, form = _HEADER[name]
        struct.pack_into(form, data, at, value)
    return bytes(data)


def external_data(path: str) -> bytes:
    """Return a qcow2 file whose data is in another file."""
    data = bytearray(qcow2(incompatible=4).ljust(5 * _CLUSTER, b"\0"))
    # One L2 table, whose entries lead to the same places in the other file.
    struct.pack_into(">Q", data, 3 * _CLUSTER, 4 * _CLUSTER | _COPIED)
    places = [at | _COPIED for at in range(0, MIB, _CLUSTER)]
    struct.pack_into(f">{len(places)}Q", data, 4 * _CLUSTER, *places)
    text = path.encode()
    struct.pack_into(">II", data, 112, 0x44415441, len(text))
    data[120 : 120 + len(text)] = text
    return bytes(data)


def descriptor(extents: str, parent: str = "ffffffff", hint: str = "") -> str:
    """Return the text in which a VMDK names its parts."""
    return (
        "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
        f"parentCID={parent}\n"
        + (f'parentFileNameHint="{hint}"\n' if hint else "")
        + f'createType="monolithicFlat"\n\n{extents}\n\n#DDB\nddb.adapterType = "ide"\n'
    )


def vmdk(text: str, capacity: int = 2048, sectors: int = 20) -> bytes:
    """Return a sparse VMDK of 1 MiB with a descriptor in it."""
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, capacity, 128, 1, sectors, 512, 21, 26, 128)
    head += b"\0\n \r\n\0\0"
    data = bytearray(2 * MIB)
    data[: len(head)] = head
    data[512 : 512 + len(text)] = text.encode()
    return bytes(data)


def vdi(size: int = MIB, kind: int = 1, parent: bytes = bytes(16), blocks: int = 1) -> bytes:
    """Return a VDI."""
    data = bytearray(2 * MIB)
    data[:40] = b"<<< QEMU VM Virtual Disk Image >>>\n".ljust(40, b"\0")
    struct.pack_into("<IIII", data, 0x40, 0xBEDA107F, 0x00010001, 0x180, kind)
    struct.pack_into("<II", data, 0x154, 512, MIB)
    struct.pack_into("<I4xQIIII", data, 0x168, 512, size, MIB, 0, blocks, 0)
    data[0x188:0x198] = uuid.UUID(int=1).bytes
    data[0x1B8:0x1C8] = parent
    data[512:516] = b"\xff\xff\xff\xff"
    return bytes(data)


def vhd(size: int = MIB, kind: int = 2) -> bytes:
    """Return a fixed VHD: a raw disk and a footer."""
    footer = bytearray(512)
    footer[:8] = b"conectix"
    struct.pack_into(">Q", footer, 40, size)
    struct.pack_into(">Q", footer, 48, size)
    struct.pack_into(">I", footer, 60, kind)
    return bytes(MIB) + bytes(footer)


def vhdx(flags: int = 0, size: int = MIB, at: int = 2 * MIB) -> bytes:
    """Return as much of a VHDX as says what it is."""
    data = bytearray(3 * MIB)
    data[:8] = b"vhdxfile"
    struct.pack_into("<4s4xI", data, 192 << 10, b"regi", 1)
    guid = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
    struct.pack_into("<16sQII", data, (192 << 10) + 16, guid, at, MIB, 1)
    table = 2 * MIB
    struct.pack_into("<8s2xH", data, table, b"metadata", 2)
    for index, (name, offset) in enumerate(
        (
            ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", 65536),
            ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", 65544),
        )
    ):
        entry = table + 32 + 32 * index
        struct.pack_into("<16sII", data, entry, uuid.UUID(name).bytes_le, offset, 8)
    struct.pack_into("<IIQ", data, table + 65536, MIB, flags, size)
    return bytes(data)


def iso(blocks: int = 17) -> bytes:
    """Return an ISO 9660 image of 17 blocks whose volume says that it has `blocks`."""
    data = bytearray(17 * 2048)
    data[32768:32774] = b"\x01CD001"
    struct.pack_into("<I", data, 32768 + 80, blocks)
    struct.pack_into("<H", data, 32768 + 128, 2048)
    return bytes(data)


def raw(start: bytes, at: int = 0, size: int = MIB) -> bytes:
    """Return `size` bytes of zeros with something in it."""
    data = bytearray(size)
    data[at : at + len(start)] = start
    return bytes(data)
