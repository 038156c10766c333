"""The smallest guest that does what tests ask for, and machines that run it.

It writes `guest: up` to its serial line, then obeys the letters it gets there: `p` powers off, `r`
resets, `k` reports a panic (pvpanic), `f` floods its output for ever; any other letter is echoed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec
from labd.model.specs import BootDevice, DiskBus, Machine
from tests.disks import at

# 16-bit code at 0x7c00; each line is one step of the loop, named after the letter it serves.
_CODE = bytes.fromhex(
    "31c08ed88ed0bc007cfcbe597cbaf803ac84c07403eeebf8"  # print the message
    "fbbafd03eca8017503f4ebf4"  # wait for a letter, halted in between
    "baf803ec3c70740f3c7274143c6b74183c66741ceeebdd"  # choose, or echo
    "ba0406b80020efebd4"  # p: PM1a_CNT of PIIX4 and ICH9, as SeaBIOS places it
    "baf90cb006eeebcc"  # r: reset control register
    "ba0505b001eeebc4"  # k: pvpanic
    "b078eeebfd"  # f
)
UP = "guest: up"
_CD_SECTOR = 2048
# One sector would do for a PC; SeaBIOS reads more of it on AHCI.
IMAGE = (_CODE + UP.encode() + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)


def boot_cd(text: str) -> bytes:
    """Return an ISO that starts the same guest, which says `text` instead of `guest: up`.

    El Torito 1.0 without emulation: volume descriptors, boot catalogue, and the sector.
    """
    code = (_CODE + text.encode() + b"\r\n\0").ljust(_CD_SECTOR, b"\0")
    volume = b"\x01CD001\x01\0" + b"LINUX".ljust(32) + text.upper().encode().ljust(32) + bytes(8)
    volume += (64).to_bytes(4, "little") + (64).to_bytes(4, "big")
    boot = b"\0CD001\x01EL TORITO SPECIFICATION".ljust(0x47, b"\0") + (19).to_bytes(4, "little")
    catalogue = b"\x01".ljust(0x1E, b"\0") + b"\x55\xaa" + b"\x88".ljust(6, b"\0")
    catalogue += (4).to_bytes(2, "little") + (20).to_bytes(4, "little")
    sectors = [volume, boot, b"\xffCD001\x01", catalogue, code]
    disc = bytes(16 * _CD_SECTOR) + b"".join(item.ljust(_CD_SECTOR, b"\0") for item in sectors)
    return disc.ljust(64 * _CD_SECTOR, b"\0")


def machine_spec(root: Path, key: str = "k1", **changes: Any) -> MachineSpec:
    """Return a machine that starts `IMAGE`; `changes` are fields of MachineSpec."""
    kind = changes.get("machine", Machine.Q35)
    folder = root / "nodes" / key
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "disk.img"
    if not image.exists():
        image.write_bytes(IMAGE)
    disk = Disk(
        id="disk0",
        ref=at(image),
        format=ImageFormat.RAW,
        bus=DiskBus.VIRTIO if kind is Machine.MICROVM else DiskBus.IDE,
    )
    number = sum(key.encode()) % 1000
    fields: dict[str, Any] = {
        "lab": "test",
        "node": key,
        "key": key,
        "uuid": f"6d0a3f9e-0000-4000-8000-{number:012d}",
        "uid": 2_000_000_000 + number,
        "folder": folder,
        "run": root / "n" / key,
        "vcpus": 1,
        "memory": 16 << 20,
        "machine": kind,
        "disks": (disk,),
        "boot": (BootDevice.DISK,),
    }
    return MachineSpec(**(fields | changes))
