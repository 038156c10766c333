"""QEMU's migration stream, taken apart: the pages of the main memory, and all the rest.

A stream of a machine carries its memory page by page and then its devices (QEMU,
docs/devel/migration.rst; migration/savevm.c, migration/ram.c). A fork maps the memory instead of
reading it, so the pages go to a file of their own, and what is left is a stream that loads at once:
it still has the small blocks (BIOS, video memory, ACPI tables), which each machine keeps itself.

Nothing of it is experimental in QEMU, and it is the same for a machine whose memory is a private
copy of another checkpoint's. Pure but for the page that it hands on.

    "QEVM" version
    0x07 configuration: length, name of the machine type
    0x01 section start: id, "ram", …; the list of blocks; 0x7e id
    0x02 section part: id; pages; 0x7e id          (as often as it takes)
    0x03 section end: id; pages; 0x7e id
    …    the devices, which are copied as they are
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from labd.model.errors import StorageFailed

PAGE: Final = 4096
_MAGIC = b"QEVM"
_CONFIGURATION, _START, _PART, _END, _FOOTER = 0x07, 0x01, 0x02, 0x03, 0x7E
_ZERO, _BLOCKS, _DATA, _EOS, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
_KNOWN = _ZERO | _BLOCKS | _DATA | _EOS | _CONTINUE
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")

# Called with the offset of a page and its 4,096 bytes; with None for a page of zeros.
Sink = Callable[[int, memoryview | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The outcome.

    Attributes:
        machine_type: As the stream says, such as `pc-q35-7.2`.
        size: Bytes of the main memory.
        rest: The stream without its pages.
    """

    machine_type: str
    size: int
    rest: bytearray


def split(stream: memoryview, block: str, sink: Sink) -> Split:
    """Take a stream apart. A page may come more than once: the last one counts.

    Args:
        stream: The whole of it.
        block: Name of the memory block whose pages go to `sink`.
        sink: Takes the pages.

    Raises:
        StorageFailed: It is cut short, or not what QEMU is known to write.
    """
    return _Splitter(stream, block.encode(), sink).run()


class _Splitter:
    def __init__(self, stream: memoryview, block: bytes, sink: Sink) -> None:
        self._stream = stream
        self._block = block
        self._sink = sink
        self._at = 0
        self._kept = 0  # everything before it is in `rest`, or dropped
        self._rest = bytearray()
        self._size = -1
        self._inside = False  # the last page was of the block; the next section may go on with it

    def run(self) -> Split:
        try:
            return self._run()
        except (struct.error, IndexError) as error:
            raise StorageFailed(
                "QEMU's migration stream ends too early: was the disk full?"
            ) from error

    def _run(self) -> Split:
        if bytes(self._stream[:4]) != _MAGIC:
            raise StorageFailed("what QEMU wrote is no migration stream")
        self._at = 8
        machine_type = self._configuration()
        section = self._start()
        while (kind := self._byte()) in {_PART, _END}:
            if self._u32() != section:
                raise StorageFailed("QEMU's migration stream has a live section besides the memory")
            self._pages()
            self._footer(section)
            if kind == _END:
                break
        else:
            raise StorageFailed(f"QEMU's migration stream has a section of kind {kind:#x} in it")
        if self._size < 0:
            raise StorageFailed(f"QEMU's migration stream has no block {self._block.decode()}")
        self._keep(len(self._stream))
        return Split(machine_type=machine_type, size=self._size, rest=self._rest)

    def _configuration(self) -> str:
        if self._byte() != _CONFIGURATION:
            raise StorageFailed("QEMU's migration stream has no configuration")
        length = self._u32()
        return self._text(length)

    def _start(self) -> int:
        kind, section = self._byte(), self._u32()
        name = self._text(self._byte())
        if kind != _START or name != "ram":
            raise StorageFailed(f"QEMU's migration stream begins with section {name[:40]!r}")
        self._at += 8  # instance and version
        self._pages()
        self._footer(section)
        return section

    def _pages(self) -> None:
        """Read one section of the memory, and keep or drop each record."""
        stream, sink, unpack = self._stream, self._sink, _U64.unpack_from
        at, inside = self._at, self._inside
        if inside:
            self._turn(at, keep=False)
        while True:
            begin = at
            word = unpack(stream, at)[0]
            at += 8
            flags = word & (PAGE - 1)
            if flags & ~_KNOWN:
                raise StorageFailed(f"QEMU's migration stream has a page of kind {flags:#x}")
            if flags & _EOS:
                break
            if flags & _BLOCKS:
                at = self._blocks(at, word & ~(PAGE - 1))
                continue
            if not flags & _CONTINUE:
                length = stream[at]
                now = stream[at + 1 : at + 1 + length] == self._block
                at += 1 + length
                if now is not inside:
                    self._turn(begin, keep=not now)
                    inside = now
            size = 1 if flags & _ZERO else PAGE
            if at + size > len(stream):
                raise IndexError
            if inside:
                sink(word & ~(PAGE - 1), None if flags & _ZERO else stream[at : at + size])
            at += size
        if inside:
            self._turn(begin, keep=True)
        self._inside = inside
        self._at = at

    def _turn(self, at: int, *, keep: bool) -> None:
        """From `at` on, records are kept, or dropped."""
        if keep:
            self._kept = at
        else:
            self._keep(at)

    def _keep(self, end: int) -> None:
        self._rest += self._stream[self._kept : end]
        self._kept = end

    def _blocks(self, at: int, total: int) -> int:
        """Read the list of blocks, `total` bytes of memory in all."""
        while total > 0:
            length = self._stream[at]
            name = bytes(self._stream[at + 1 : at + 1 + length])
            size = _U64.unpack_from(self._stream, at + 1 + length)[0]
            at += 1 + length + 8
            total -= size
            if name == self._block:
                self._size = size
            if not size:
                break
        return at

    def _footer(self, section: int) -> None:
        if self._byte() != _FOOTER or self._u32() != section:
            raise StorageFailed("a section of QEMU's migration stream does not end where it should")

    def _byte(self) -> int:
        self._at += 1
        return self._stream[self._at - 1]

    def _u32(self) -> int:
        self._at += 4
        value: int = _U32.unpack_from(self._stream, self._at - 4)[0]
        return value

    def _text(self, length: int) -> str:
        self._at += length
        return bytes(self._stream[self._at - length : self._at]).decode(errors="replace")
