"""Read from an ELF file which libraries it needs, as ldd would, without running it (elf(5))."""

from __future__ import annotations

import struct

from labd.model.errors import StorageFailed

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


def is_elf(data: bytes) -> bool:
    """True if this is a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def needed(data: bytes) -> tuple[str, ...]:
    """Return what must be loaded with an ELF file: its libraries, then its interpreter's path.

    Raises:
        StorageFailed: The file is cut or its tables point outside of it.
    """
    if not is_elf(data):
        return ()
    try:
        return _needed(data)
    except (struct.error, IndexError, ValueError) as error:
        raise StorageFailed(
            "a program of a downloaded package is damaged; empty the cache folder and build again"
        ) from error


def _needed(data: bytes) -> tuple[str, ...]:
    table, size, count = _program_headers(data)
    loads: list[tuple[int, int, int]] = []
    dynamic = (0, 0)
    names: list[str] = []
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", data, table + index * size
        )
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, length)
        elif kind == _PT_INTERP:
            names.append(_text(data, offset))
    start, length = dynamic
    tags = [struct.unpack_from("<QQ", data, start + at) for at in range(0, length, 16)]
    tables = [value for tag, value in tags if tag == _DT_STRTAB]
    if not tables:
        return tuple(names)
    strings = _offset(loads, tables[0])
    return (*(_text(data, strings + value) for tag, value in tags if tag == _DT_NEEDED), *names)


def _program_headers(data: bytes) -> tuple[int, int, int]:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return table, size, count


def _offset(loads: list[tuple[int, int, int]], address: int) -> int:
    for start, offset, length in loads:
        if start <= address < start + length:
            return address - start + offset
    raise ValueError(address)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
