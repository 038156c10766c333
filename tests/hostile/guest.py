"""A guest that writes the header of a qcow2 file over the begin of its own raw disk."""

from __future__ import annotations

from typing import Final

from labd.model.units import MIB
from tests.hostile.makers import qcow2

WRITTEN: Final = "written"
_ORIGIN: Final = 0x7C00  # where the BIOS loads a boot sector
_SECTOR: Final = 512
_HEADER: Final = 0x80  # where in the sector the header is that will be written


def writer(backing: str) -> bytes:
    """Return a raw disk of 1 MiB that boots, makes itself a qcow2 with a backing file, and idles.

    Only its first sector is another then: the tables of that qcow2 are in their places already.
    """
    disk = bytearray(qcow2(backing).ljust(MIB, b"\0"))
    header = bytes(disk[: _SECTOR - 2 - _HEADER])
    assert not any(disk[len(header) : _SECTOR])
    head = bytes.fromhex(
        "fa"  #         cli
        "31c0"  #       xor ax, ax
        "8ed8"  #       mov ds, ax
        "8ec0"  #       mov es, ax
        "8ed0"  #       mov ss, ax
        "bc007c"  #     mov sp, 0x7c00
        "fc"  #         cld
        "fb"  #         sti
        "b80103"  #     mov ax, 0x0301       write one sector (int 13h)
        "bb807c"  #     mov bx, 0x7c80       _ORIGIN + _HEADER
        "b90100"  #     mov cx, 1            the first of the disk in dl
        "b600"  #       mov dh, 0
        "cd13"  #       int 0x13
        "721a"  #       jc idle
    )
    body = bytes.fromhex(
        "ac"  #   next: lodsb
        "84c0"  #       test al, al
        "7412"  #       jz idle
        "88c4"  #       mov ah, al
        "bafd03"  #     mov dx, 0x3fd        line status register of COM1 (16550)
        "ec"  #   wait: in al, dx
        "a820"  #       test al, 0x20        transmitter holding register empty
        "74fb"  #       jz wait
        "baf803"  #     mov dx, 0x3f8
        "88e0"  #       mov al, ah
        "ee"  #         out dx, al
        "ebe9"  #       jmp next
        "f4"  #   idle: hlt
        "ebfd"  #       jmp idle
    )
    # mov si, message: a word, low byte first
    message = _ORIGIN + len(head) + 3 + len(body)
    code = head + b"\xbe" + message.to_bytes(2, "little") + body + f"{WRITTEN}\r\n\0".encode()
    assert len(code) <= _HEADER
    disk[:_SECTOR] = code.ljust(_HEADER, b"\0") + header + b"\x55\xaa"
    return bytes(disk)
