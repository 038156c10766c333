"""Blocks of a pcapng file (draft-ietf-opsawg-pcapng). Pure.

A capture is a section header, one interface, one enhanced packet block a frame, and at the end the
interface's statistics. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import Final

SNAPLEN: Final = 262_144  # bytes of a frame that are kept: more than any has
_SHB, _IDB, _ISB, _EPB = 0x0A0D0D0A, 1, 5, 6
_MAGIC = 0x1A2B3C4D
_ETHERNET = 1  # LINKTYPE_ETHERNET
_NANOSECONDS = 9  # if_tsresol: 10^-9
_INBOUND, _OUTBOUND = 1, 2  # epb_flags
_END = (0, b"")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*items: tuple[int, bytes]) -> bytes:
    return b"".join(
        struct.pack("<HH", code, len(value)) + _padded(value) for code, value in (*items, _END)
    )


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def header(program: str) -> bytes:
    """Return the section header block; its length is not known before the end."""
    body = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
    return _block(_SHB, body + _options((4, program.encode())))  # shb_userappl


def interface(name: str, description: str, filter: str = "") -> bytes:
    """Return the interface description block of an Ethernet interface."""
    body = struct.pack("<HHI", _ETHERNET, 0, SNAPLEN)
    items = [(2, name.encode()), (3, description.encode()), (9, bytes([_NANOSECONDS]))]
    if filter:
        items.append((11, b"\0" + filter.encode()))  # if_filter: a text for libpcap
    return _block(_IDB, body + _options(*items))


def packet(time: int, data: bytes, length: int, *, outbound: bool) -> bytes:
    """Return the enhanced packet block of a frame.

    Args:
        time: Nanoseconds since 1970.
        data: What is kept of the frame.
        length: Bytes that it had.
        outbound: It left by the interface.
    """
    body = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(data), length)
    flags = struct.pack("<I", _OUTBOUND if outbound else _INBOUND)
    return _block(_EPB, body + _padded(data) + _options((2, flags)))


def statistics(began: int, ended: int, seen: int, dropped: int) -> bytes:
    """Return the interface statistics block.

    Args:
        began: Nanoseconds since 1970.
        ended: Nanoseconds since 1970.
        seen: Frames that the filter let through, those that were dropped too.
        dropped: Frames for which there was no room.
    """
    body = struct.pack("<III", 0, ended >> 32, ended & 0xFFFFFFFF)
    items = [
        (2, struct.pack("<II", began >> 32, began & 0xFFFFFFFF)),
        (3, struct.pack("<II", ended >> 32, ended & 0xFFFFFFFF)),
        (4, struct.pack("<Q", seen)),
        (5, struct.pack("<Q", dropped)),
    ]
    return _block(_ISB, body + _options(*items))
