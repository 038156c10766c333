"""What the engine may rely on, of the real image store and of the fake one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.port import Images
from labd.model.errors import DownloadFailed, ImageRefused, InputError
from labd.model.images import Image, ImageFormat
from labd.model.units import MIB
from tests.fakes.images import FakeImages

DISK = b"\xfa\xf4".ljust(MIB, b"\0")
KERNEL = bytearray(8192)
KERNEL[0x202:0x206] = b"HdrS"
INITRD = b"070701" + bytes(1000)


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts."""
    for part in parts:
        yield part


@pytest.fixture(params=["real", "fake"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    if request.param == "fake":
        return FakeImages(tmp_path / "state")
    return ImageStore(tmp_path / "state", tmp_path / "cache")


async def disk_image(images: Images, name: str = "base", data: bytes = DISK) -> Image:
    """Receive a raw disk."""
    return await images.receive(name, stream(data[:1000], data[1000:]), format=None, source="here")


async def test_a_disk_is_received(images: Images) -> None:
    image = await disk_image(images)
    assert (image.name, image.format, image.source) == ("base", ImageFormat.RAW, "here")
    assert image.digest == "sha256:" + hashlib.sha256(DISK).hexdigest()
    assert (image.size, image.virtual_size, image.files) == (MIB, MIB, ("disk",))
    assert image.created.endswith("Z")
    assert list(images.files(image)) == ["disk"]


async def test_a_kernel_and_its_initramfs_are_received(images: Images) -> None:
    image = await images.receive(
        "linux",
        stream(bytes(KERNEL), INITRD),
        format=ImageFormat.KERNEL,
        kernel_size=len(KERNEL),
        cmdline="console=ttyS0",
    )
    assert (image.format, image.virtual_size) == (ImageFormat.KERNEL, 0)
    assert (image.files, image.cmdline) == (("kernel", "initrd"), "console=ttyS0")
    assert image.size == len(KERNEL) + len(INITRD)


async def test_a_kernel_alone(images: Images) -> None:
    image = await images.receive("linux", stream(bytes(KERNEL)), format=ImageFormat.KERNEL)
    assert image.files == ("kernel",)


async def test_the_same_bytes_twice_are_one(images: Images) -> None:
    first, second = await disk_image(images, "one"), await disk_image(images, "two")
    assert first.digest == second.digest
    assert images.files(first) == images.files(second)


async def test_refusals(images: Images) -> None:
    with pytest.raises(ImageRefused):
        await images.receive("x", stream(b"QFI\xfb" + bytes(1000)), format=None)
    with pytest.raises(ImageRefused):
        await images.receive("x", stream(DISK), format=None, sha256="0" * 64)
    with pytest.raises(InputError):
        await images.receive("No Name", stream(DISK), format=None)
    assert await images.sweep([]) == []


async def test_an_unreachable_url(images: Images) -> None:
    with pytest.raises(DownloadFailed):
        await images.download(
            "x", "http://127.0.0.1:1/x", format=None, progress=lambda _done, _total: None
        )


async def test_an_unknown_recipe(images: Images) -> None:
    with pytest.raises(InputError, match="there is no image recipe 'tyni'"):
        await images.build("tyni", "x", lambda _line: None)


async def test_discard_and_sweep(images: Images) -> None:
    kept = await disk_image(images, "kept")
    other = await disk_image(images, "other", b"other".ljust(MIB, b"\0"))
    dropped = await disk_image(images, "dropped", b"dropped".ljust(MIB, b"\0"))
    await images.discard(dropped)
    await images.discard(dropped)
    assert await images.sweep([kept.digest, "sha256:" + "0" * 64]) == [other.digest]
    assert await images.sweep([kept.digest]) == []
