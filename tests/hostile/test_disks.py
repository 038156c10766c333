"""Hostile disks on labd's way of importing, and in the jail in which qemu-img converts."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from labd.drivers.storage.local.disks import LocalStorage
from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.local.overlay import fresh
from labd.host.commands import Completed, run
from labd.images import convert
from labd.images.convert import Converter
from labd.images.foreign import Foreign
from labd.model.disks import DiskKind, DiskRef
from labd.model.errors import ImageRefused, StorageFailed
from labd.model.images import ImageFormat
from labd.model.units import MIB
from tests.hostile.disks import DISKS
from tests.hostile.imports import UID
from tests.hostile.makers import descriptor, external_data, qcow2, vmdk

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"the canary's song " * 57


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a canary in it that every user may read."""
    with tempfile.TemporaryDirectory(prefix="labd-h-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "canary").write_bytes(SECRET.ljust(MIB, b"\0"))
        (path / "canary").chmod(0o644)
        yield path


def test_hostile_disks_are_told_by_name_and_open_nothing(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    canary, trace = folder / "canary", folder / "trace"
    argv = ["strace", "-f", "--seccomp-bpf", "-o", str(trace), "-e", "trace=open,openat,openat2"]
    argv += [sys.executable, "-m", "tests.hostile.imports", str(folder / "in"), str(canary)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    heard = json.loads(done.stdout)
    for disk in DISKS:
        said = heard["said"].pop(disk.name)
        wanted, more, _ = disk.says.partition("…")
        assert said.startswith(wanted) if more else said == wanted, disk.name
        assert "\n" not in said
        assert str(canary) not in said
    assert heard["said"] == {}
    assert heard["left"] == []
    assert heard["memory"] < 100 * MIB
    assert heard["below"] < 100 * MIB
    record_property("hostile disks", len(DISKS))
    opened = trace.read_text()
    assert "/in/state/images/" in opened  # strace has seen it
    assert "qemu-img" not in opened or "/proc/self/fd/" in opened
    for path in (str(canary), "/etc/shadow", "id_rsa"):
        assert path not in opened


def traps(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Return name -> a file past labd's own look at headers, and the driver that opens it."""
    flat = f'RW 2048 FLAT "{canary}" 0'
    nested = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(canary)}})
    return {
        "VMDK descriptor": (descriptor(flat).encode(), "vmdk"),
        "VMDK envelope": (vmdk(descriptor(flat), capacity=0), "vmdk"),
        "backing file": (qcow2(str(canary)), "qcow2"),
        "backing json:": (qcow2(f"json:{nested}"), "qcow2"),
        "data file": (external_data(str(canary)), "qcow2"),
    }


async def attack(
    folder: Path, data: bytes, driver: str, *, jailed: bool
) -> tuple[Completed, bytes]:
    """Have qemu-img convert a file as labd does; return how it ended and what it made."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    source.chmod(0o444)
    target.unlink(missing_ok=True)
    with ExitStack() as stack:
        given = os.open(source, os.O_RDONLY)
        stack.callback(os.close, given)
        made = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
        stack.callback(os.close, made)
        os.fchown(made, UID, UID)
        argv = [
            word.replace("driver=vmdk", f"driver={driver}", 1)
            for word in convert.command(Foreign.VMDK, given, made)
        ]
        done = await run(
            argv,
            check=False,
            pass_fds=[given, made],
            jail=convert.jail(UID, given, made, 10, 64 * MIB) if jailed else None,
        )
    return done, target.read_bytes()


@pytest.mark.parametrize("name", sorted(traps(Path("/x"))))
async def test_no_header_leads_out_of_the_jail(folder: Path, name: str) -> None:
    canary = folder / "canary"
    data, driver = traps(canary)[name]
    done, made = await attack(folder, data, driver, jailed=False)
    assert done.status == 0, done.stderr  # the trap is one: without a jail it works
    assert SECRET[:64] in made
    done, made = await attack(folder, data, driver, jailed=True)
    assert done.status == 1
    assert b"Permission denied" in done.stderr
    assert SECRET[:64] not in made
    assert not made


async def test_the_jail_has_no_network(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        data = qcow2(f"nbd:127.0.0.1:{port}:exportname=x")
        done, _ = await attack(folder, data, "qcow2", jailed=True)
        assert done.status == 1
        with pytest.raises(BlockingIOError):
            server.accept()


async def chunks(path: Path) -> AsyncIterator[bytes]:
    yield path.read_bytes()


@pytest.mark.parametrize(
    "made", ["vmdk", "vmdk,subformat=streamOptimized", "vdi", "vhdx", "vpc", "vpc,subformat=fixed"]
)
async def test_a_disk_of_another_maker_becomes_qcow2(folder: Path, made: str) -> None:
    driver, _, options = made.partition(",")
    raw = folder / "raw"
    content = os.urandom(MIB) + bytes(3 * MIB) + os.urandom(MIB)
    raw.write_bytes(content)
    given = folder / "given"
    argv = ["qemu-img", "convert", "-f", "raw", "-O", driver, *(["-o", options] if options else [])]
    await run([*argv, str(raw), str(given)])
    store = ImageStore(folder / "state", folder / "cache", converter=Converter(UID))
    image = await store.receive("x", chunks(given), format=None, source="given")
    assert image.format is ImageFormat.QCOW2
    assert re.fullmatch(r"given \(converted from (VMDK|VDI|VHDX|VHD)\)", image.source)
    (disk,) = store.files(image).values()
    back = folder / "back"
    await run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(back)])
    assert back.read_bytes()[: len(content)] == content
    facts = disk.stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (0, 0, 0o444)
    assert facts.st_size == image.size
    assert await store.sweep([image.digest]) == []


async def test_a_conversion_keeps_to_its_limits(folder: Path) -> None:
    raw, given = folder / "raw", folder / "given"
    raw.write_bytes(os.urandom(4 * MIB))
    await run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", str(raw), str(given)])
    with pytest.raises(StorageFailed, match="would have more than the 2097152 bytes that are free"):
        await Converter(UID).convert(Foreign.VMDK, given, folder / "made", 2 * MIB)
    store = ImageStore(folder / "state", folder / "cache")
    with pytest.raises(ImageRefused, match="the image is a VMDK disk; convert it to qcow2"):
        await store.receive("x", chunks(given), format=None)


async def test_a_qcow2_header_that_a_guest_wrote_into_a_raw_disk(folder: Path) -> None:
    """A raw image stays raw: labd names the format at each start, and QEMU never probes."""
    store = ImageStore(folder / "state", folder / "cache")
    raw = folder / "raw"
    raw.write_bytes(bytes(MIB))
    image = await store.receive("x", chunks(raw), format=ImageFormat.RAW)
    storage, nodes = LocalStorage(folder / "state"), folder / "state/nodes/k1"
    first = DiskRef(kind=DiskKind.MACHINE, key="k1", name="overlay.qcow2")
    await storage.clone(first, image, None)
    overlay = nodes / first.name
    trap = qcow2(str(folder / "canary"))[:4096]
    (folder / "trap").write_bytes(trap)
    # As the guest does: through the block layer, from sector 0 on.
    argv = ["qemu-img", "dd", "-U", "-f", "raw", "-O", "raw", f"if={folder / 'trap'}"]
    await run([*argv, f"of={folder / 'seen'}", "bs=512"])
    await run(["qemu-io", "-f", "qcow2", "-c", f"write -s {folder / 'seen'} 0 4096", str(overlay)])
    again = nodes / "again.qcow2"
    await storage.child(first.beside(again.name), first)
    told = json.loads((await run(["qemu-img", "info", "--output=json", str(again)])).stdout)
    assert (told["format"], told["backing-filename"]) == ("qcow2", str(overlay))
    told = json.loads((await run(["qemu-img", "info", "--output=json", str(overlay)])).stdout)
    assert told["backing-filename-format"] == "raw"
    assert fresh(MIB, str(overlay), "qcow2").head[:1024] == again.read_bytes()[:1024]
