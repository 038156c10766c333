"""From QEMU's portable pixmap to PNG (RFC 2083). Pure.

QEMU can write PNG itself, but forgets to give back the descriptor that it wrote to (7.2).
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

from labd.model.errors import WorldError

PICTURE_LIMIT: Final = 64 << 20  # bytes of a pixmap; the VGA's memory is 16 MiB
_HEADER = re.compile(rb"P6\s(\d{1,5})\s(\d{1,5})\s255\s")
_LEVEL = 1  # a screen of text is small at any level


def png_of(pixmap: bytes) -> bytes:
    """Return a binary pixmap (P6, 8 bits a channel) as PNG.

    Raises:
        WorldError: It is none, or is not as long as it says.
    """
    head = _HEADER.match(pixmap)
    width, height = (int(head[1]), int(head[2])) if head else (0, 0)
    if head is None or not width or not height:
        raise WorldError("QEMU made no picture of the screen; try again")
    row, begin = width * 3, head.end()
    if len(pixmap) - begin != row * height:
        raise WorldError(f"QEMU made half a picture of {width}x{height}; try again")
    # Filter type 0 before each row.
    rows = b"".join(b"\0" + pixmap[at : at + row] for at in range(begin, begin + row * height, row))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows, _LEVEL))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
