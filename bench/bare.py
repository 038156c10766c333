"""The bare launcher that labd is measured against: the same guests, the same taps, nothing else.

It runs the same QEMU command lines as labd (from the same pure function), with a network namespace,
a bridge and one tap a guest, and waits over QMP. It has no database, no events, no user ids, no
adoption: what an engineer would write in an afternoon.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from labd.drivers.node.qemu.argv import Descriptors, build
from labd.drivers.node.qemu.devices import layers
from labd.drivers.storage.local.overlay import Fresh
from labd.model.disks import BlockAttachment, DiskKind, DiskRef
from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import DiskBus, Machine, NicModel

_TUNSETIFF, _IFF = 0x400454CA, 0x0002 | 0x1000 | 0x4000  # TAP, NO_PI, VNET_HDR
_CLONE_NEWNET = 0x40000000


@dataclass
class Guest:
    """One QEMU and its sockets."""

    process: asyncio.subprocess.Process
    folder: Path


@dataclass(frozen=True)
class Times:
    """Seconds from the first action to the last guest of each kind."""

    running: float
    output: float
    destroy: float


def at(path: Path) -> DiskRef:
    """Return the name of a disk that is a file, in a storage class of this script's own."""
    return DiskRef(kind=DiskKind.MACHINE, key="bare", name=str(path), storage="files")


def machine(index: int, folder: Path, overlay: Path, base: Path) -> MachineSpec:
    """Return the guest that `bench/labs.py` describes to labd as a template."""
    return MachineSpec(
        lab="bare",
        node=f"n-{index}",
        key=f"bare{index}",
        uuid=f"00000000-0000-4000-8000-{index:012d}",
        uid=0,
        folder=folder,
        run=folder,
        vcpus=1,
        memory=16 << 20,
        machine=Machine.PC,
        balloon=True,
        disks=(
            Disk(
                id="root",
                ref=at(overlay),
                format=ImageFormat.QCOW2,
                backing=((at(base), ImageFormat.RAW),),
                bus=DiskBus.IDE,
                serial="root",
            ),
        ),
        nics=(Nic(id="n0", mac=f"02:00:00:00:00:{index:02x}", model=NicModel.E1000),),
    )


def taps(namespace: str, count: int) -> list[int]:
    """Make a namespace, a bridge and taps in it, by `ip -batch` and plain ioctls."""
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    found = []
    libc.setns(there, _CLONE_NEWNET)
    try:
        for index in range(count):
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", f"t{index}".encode(), _IFF))
            found.append(fd)
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)
        os.close(there)
    lines = ["link add br0 type bridge", "link set br0 up"]
    lines += [f"link set t{index} master br0 up" for index in range(count)]
    subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines).encode(), check=True
    )
    return found


async def launch(index: int, folder: Path, base: Path, prototype: Fresh, tap: int) -> Guest:
    """Start one QEMU with its CPUs stopped."""
    folder.mkdir()
    overlay = folder / "root.qcow2"
    with overlay.open("wb") as file:
        file.write(prototype.head)
        file.truncate(prototype.length)
    spec = machine(index, folder, overlay, base)
    sockets: dict[str, socket.socket] = {}
    for name in ("qmp", "people", "serial", "agent"):
        sockets[name] = socket.socket(socket.AF_UNIX)
        sockets[name].bind(str(folder / name))
        sockets[name].listen(1)
    files = {
        layer.node: os.open(layer.source.name, os.O_RDWR if layer.writable else os.O_RDONLY)
        for layer in layers(spec)
    }
    fds = Descriptors(
        qmp=sockets["qmp"].fileno(),
        people=sockets["people"].fileno(),
        serial=sockets["serial"].fileno(),
        agent=sockets["agent"].fileno(),
        taps={"n0": tap},
        layers={node: BlockAttachment(fd=fd) for node, fd in files.items()},
    )
    argv = build(spec, fds, "bare")
    passed = [*(s.fileno() for s in sockets.values()), *files.values(), tap]
    process = await asyncio.create_subprocess_exec(
        *argv, pass_fds=passed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for item in sockets.values():
        item.close()
    for fd in (*files.values(), tap):
        os.close(fd)
    return Guest(process, folder)


async def run(guest: Guest) -> None:
    """Let the CPUs of a guest run, and see by QMP that they do."""
    reader, writer = await asyncio.open_unix_connection(guest.folder / "qmp")
    await reader.readline()
    answer: dict[str, dict[str, str]] = {}
    for command in ("qmp_capabilities", "cont", "query-status"):
        writer.write(json.dumps({"execute": command}).encode())
        while "return" not in (answer := json.loads(await reader.readline())):
            pass
    assert answer["return"]["status"] == "running"
    writer.close()


async def first_output(guest: Guest) -> None:
    """Return when the guest has written to its serial line."""
    reader, writer = await asyncio.open_unix_connection(guest.folder / "serial")
    await reader.readexactly(1)
    writer.close()


async def measure(count: int, base: Path, prototype: Fresh) -> Times:
    """Take `count` guests up and down once."""
    namespace = f"bare-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="bare-") as name:
        began = time.monotonic()
        fds = taps(namespace, count)
        try:
            running = [0.0]

            async def one(index: int) -> Guest:
                guest = await launch(index, Path(name) / str(index), base, prototype, fds[index])
                said = asyncio.create_task(first_output(guest))
                await run(guest)
                running[0] = max(running[0], time.monotonic())
                await said
                return guest

            guests = await asyncio.gather(*(one(index) for index in range(count)))
            output = time.monotonic()
            for guest in guests:
                guest.process.kill()
            await asyncio.gather(*(guest.process.wait() for guest in guests))
        finally:
            subprocess.run(["ip", "netns", "del", namespace], check=True)
        end = time.monotonic()
    return Times(running[0] - began, output - began, end - output)
