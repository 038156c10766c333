"""From a pixmap to PNG."""

from __future__ import annotations

import struct
import zlib

import pytest

from labd.drivers.node.qemu.picture import png_of
from labd.model.errors import WorldError


def decode(png: bytes) -> tuple[int, int, bytes]:
    """Return width, height and RGB rows of an unfiltered 8-bit RGB PNG, checksums checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + size
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    raw, row = zlib.decompress(chunks[b"IDAT"]), width * 3 + 1
    assert len(raw) == row * height
    assert {raw[at] for at in range(0, len(raw), row)} == {0}
    return width, height, b"".join(raw[at + 1 : at + row] for at in range(0, len(raw), row))


def test_every_pixel_is_kept() -> None:
    pixels = bytes(range(3 * 5 * 3))
    assert decode(png_of(b"P6\n3 5\n255\n" + pixels)) == (3, 5, pixels)


@pytest.mark.parametrize(
    ("pixmap", "message"),
    [
        (b"", "QEMU made no picture of the screen; try again"),
        (b"P5\n1 1\n255\n\0", "QEMU made no picture of the screen; try again"),
        (b"P6\n0 9\n255\n", "QEMU made no picture of the screen; try again"),
        (b"P6\n2 2\n255\n" + bytes(11), "QEMU made half a picture of 2x2; try again"),
        (b"P6\n2 2\n255\n" + bytes(13), "QEMU made half a picture of 2x2; try again"),
    ],
)
def test_what_is_no_picture(pixmap: bytes, message: str) -> None:
    with pytest.raises(WorldError) as refused:
        png_of(pixmap)
    assert refused.value.message == message
