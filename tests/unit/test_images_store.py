"""The real store on a real disk: what is there afterwards, and what is not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from labd.drivers.storage.local.disks import LocalStorage
from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.local.overlay import fresh, overlay_header
from labd.host.commands import run
from labd.model.disks import DiskKind, DiskRef
from labd.model.errors import ImageRefused, InputError, StorageFailed
from labd.model.images import Image, ImageFormat
from labd.model.units import GIB, MIB, TIB

DISK = b"\xfa\xf4".ljust(MIB, b"\0")
KERNEL = b"".ljust(0x202, b"k") + b"HdrS" + bytes(8000)
INITRD = b"070701" + bytes(1000)


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts."""
    for part in parts:
        yield part


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "state", tmp_path / "cache")


async def receive(store: ImageStore, *parts: bytes, name: str = "x") -> Image:
    """Receive a disk."""
    return await store.receive(name, stream(*parts), format=None)


async def info(path: Path, *more: str) -> dict[str, Any]:
    """Return what qemu-img says of a disk."""
    done = await run(["qemu-img", "info", "--output=json", "-f", "qcow2", *more, str(path)])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_layout_and_modes(store: ImageStore, tmp_path: Path) -> None:
    image = await receive(store, DISK)
    digest = hashlib.sha256(DISK).hexdigest()
    path = tmp_path / "state/images" / digest / "disk"
    assert store.files(image) == {"disk": path}
    assert path.read_bytes() == DISK
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    # A VM's own uid must be able to reach it.
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert list((tmp_path / "state/images/.partial").iterdir()) == []


async def test_zeros_take_no_room(store: ImageStore) -> None:
    parts = [bytes(MIB), b"end".ljust(MIB, b"\0"), bytes(30 * MIB)]
    image = await receive(store, *parts)
    path = store.files(image)["disk"]
    assert path.stat().st_size == 32 * MIB
    assert path.stat().st_blocks * 512 < MIB
    assert hashlib.sha256(path.read_bytes()).hexdigest() == image.digest.removeprefix("sha256:")


async def test_kernel_is_cut_where_it_was_said(store: ImageStore) -> None:
    image = await store.receive(
        "linux",
        stream(KERNEL + INITRD[:10], INITRD[10:]),
        format=ImageFormat.KERNEL,
        kernel_size=len(KERNEL),
    )
    files = store.files(image)
    assert files["kernel"].read_bytes() == KERNEL
    assert files["initrd"].read_bytes() == INITRD
    assert image.digest == "sha256:" + hashlib.sha256(KERNEL + INITRD).hexdigest()


@pytest.mark.parametrize(
    ("kernel_size", "initrd", "message"),
    [
        (0, INITRD, "the kernel was said to have 0 bytes, and 9524 came in all; send it again"),
        (-1, INITRD, "the kernel was said to have -1 bytes, and 9524 came in all; send it again"),
        (
            10**9,
            INITRD,
            "the kernel was said to have 1000000000 bytes, and 9524 came in all; send it again",
        ),
        (
            len(KERNEL),
            b"no archive",
            (
                "the initramfs is neither a cpio archive (newc) nor a compressed one; make it with "
                "cpio -H newc, or give the initrd.img file of a distribution"
            ),
        ),
    ],
)
async def test_bad_kernels(
    store: ImageStore, tmp_path: Path, kernel_size: int, initrd: bytes, message: str
) -> None:
    with pytest.raises(ImageRefused) as caught:
        await store.receive(
            "x", stream(KERNEL, initrd), format=ImageFormat.KERNEL, kernel_size=kernel_size
        )
    assert caught.value.message == message
    assert [path.name for path in (tmp_path / "state/images").iterdir()] == [".partial"]
    assert list((tmp_path / "state/images/.partial").iterdir()) == []


async def test_a_sender_that_fails_or_is_cancelled_leaves_nothing(
    store: ImageStore, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DISK
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.receive("x", broken(), format=None)
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield DISK
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.receive("x", endless(), format=None))
    async with asyncio.timeout(60):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "state/images/.partial").iterdir()) == []


async def test_a_limit_on_size(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "state", tmp_path / "cache", max_size=MIB)
    with pytest.raises(ImageRefused) as caught:
        await receive(store, DISK, b"more")
    assert caught.value.message == (
        "the image has more than 1 MiB, the limit of this host; import a smaller one"
    )
    assert list((tmp_path / "state/images/.partial").iterdir()) == []


async def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StorageFailed, match="cannot make room for an image: Not a directory"):
        await receive(ImageStore(tmp_path / "state", tmp_path / "cache"), DISK)


async def test_sweep_tells_of_interrupted_imports(store: ImageStore, tmp_path: Path) -> None:
    image = await receive(store, DISK)
    left = tmp_path / "state/images/.partial/tmpabc"
    left.mkdir()
    (left / "disk").write_bytes(DISK)
    assert await store.sweep([image.digest]) == ["interrupted import tmpabc"]
    assert store.files(image)["disk"].exists()
    assert not left.exists()


async def test_a_digest_cannot_point_elsewhere(store: ImageStore) -> None:
    image = await receive(store, DISK)
    forged = Image(name="x", format=image.format, digest="sha256:../../etc", size=1)
    with pytest.raises(InputError, match="image x has no valid digest"):
        await store.discard(forged)


@pytest.mark.parametrize("size", [512, MIB, 10 * GIB, 3 * TIB, 64 * TIB])
async def test_qemu_img_finds_nothing_wrong(tmp_path: Path, size: int) -> None:
    path = tmp_path / "fresh.qcow2"
    plain = fresh(size)
    path.write_bytes(plain.head)
    os.truncate(path, plain.length)
    await run(["qemu-img", "check", "-f", "qcow2", str(path)])
    assert (await info(path))["virtual-size"] == size
    await run(["qemu-io", "-f", "qcow2", "-c", f"write -P 7 {size - 512} 512", str(path)])
    await run(["qemu-img", "check", "-f", "qcow2", str(path)])
    await run(["qemu-io", "-f", "qcow2", "-c", f"read -P 7 {size - 512} 512", str(path)])


async def test_an_overlay_shows_its_image(store: ImageStore, tmp_path: Path) -> None:
    image = await receive(store, b"\x07" * MIB)
    ref = DiskRef(kind=DiskKind.MACHINE, key="k1", name="top.qcow2")
    await LocalStorage(tmp_path / "state").clone(ref, image, 10 * GIB)
    top = tmp_path / "state/nodes/k1/top.qcow2"
    told = await info(top)
    assert told["virtual-size"] == 10 * GIB
    assert told["backing-filename"] == str(store.files(image)["disk"])
    assert told["backing-filename-format"] == "raw"
    await run(["qemu-img", "check", "-f", "qcow2", str(top)])
    read = f"read -P 7 0 {MIB}", f"read -P 0 {MIB} {MIB}"
    await run(["qemu-io", "-f", "qcow2", "-c", read[0], "-c", read[1], str(top)])
    await run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", str(top)])
    assert store.files(image)["disk"].read_bytes() == b"\x07" * MIB


def test_a_path_that_qcow2_cannot_store() -> None:
    with pytest.raises(InputError, match="choose a shorter root folder"):
        overlay_header("/" + "x" * 1023, "raw", GIB)
