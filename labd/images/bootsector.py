"""The smallest guest: a boot sector that says that it is ready on COM1, and then idles.

It runs in real mode only, so it also starts under KVM on hosts whose KVM cannot run a real kernel.
"""

from __future__ import annotations

from typing import Final

READY: Final = "labd: ready"
_MESSAGE: Final = f"{READY} bootsector\r\n".encode() + b"\0"
_ORIGIN: Final = 0x7C00  # where the BIOS loads a boot sector
_SECTOR: Final = 512
_DISK: Final = 1 << 20  # SeaBIOS on q35 does not boot from a disk of a single sector


def boot_sector() -> bytes:
    """Return a raw disk of 1 MiB whose first sector boots."""
    head = bytes.fromhex(
        "fa"  #         cli
        "31c0"  #       xor ax, ax
        "8ed8"  #       mov ds, ax
        "8ed0"  #       mov ss, ax
        "bc007c"  #     mov sp, 0x7c00
        "fc"  #         cld
        "fb"  #         sti
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
        "f4"  #   idle: hlt                  woken by the timer, 18 times a second
        "ebfd"  #       jmp idle
    )
    # mov si, message: a word, low byte first
    message = _ORIGIN + len(head) + 3 + len(body)
    load = b"\xbe" + message.to_bytes(2, "little")
    code = head + load + body + _MESSAGE
    return (code.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa").ljust(_DISK, b"\0")
