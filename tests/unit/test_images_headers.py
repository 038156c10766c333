"""Hostile and damaged images: each is refused with reason and fix; the good ones pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.local.overlay import CLUSTER, fresh
from labd.images.headers import inspect
from labd.model.errors import ImageRefused, InputError
from labd.model.images import ImageFormat
from labd.model.units import GIB, MIB, TIB
from tests.hostile import makers
from tests.hostile.makers import iso, raw

RAW, QCOW2, ISO, KERNEL = ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.ISO, ImageFormat.KERNEL
CHECK = "check the file with qemu-img check"


def qcow2(size: int = GIB, **fields: int) -> bytes:
    """Return a good qcow2 file, with header fields of the given names overwritten."""
    return makers.qcow2(size=size, **fields)


def kernel(size: int = 8192) -> bytes:
    """Return something that begins as a bzImage does."""
    data = bytearray(size)
    data[0x202:0x206] = b"HdrS"
    return bytes(data)


CONVERT = "convert it to qcow2 with qemu-img convert first"
BACKING = (
    "the qcow2 image has a backing file, and labd does not follow it; merge them into one with "
    "qemu-img convert -O qcow2"
)
DATA_FILE = (
    "the qcow2 image keeps its data in an external file, and labd does not follow it; make it one "
    "file with qemu-img convert -O qcow2"
)
ENCRYPTED = "the qcow2 image is encrypted; decrypt it with qemu-img convert and its secret first"
NO_KERNEL = (
    "the kernel is no x86 Linux kernel (bzImage has 'HdrS' at byte 514); give the vmlinuz file "
    "of a distribution"
)
OVERLAY = fresh(GIB, "/etc/shadow", "raw")

REFUSED: list[tuple[str, bytes, ImageFormat | None, str]] = [
    ("empty", b"", None, "the image is empty (0 bytes); check the file and send it again"),
    ("backing file", OVERLAY.head.ljust(OVERLAY.length, b"\0"), None, BACKING),
    ("backing offset only", qcow2(backing_offset=512), None, BACKING),
    ("backing length only", qcow2(backing_length=9), QCOW2, BACKING),
    ("backing format only", qcow2(extension=0xE2792ACA), QCOW2, BACKING),
    ("external data file bit", qcow2(incompatible=4), None, DATA_FILE),
    ("external data file name", qcow2(extension=0x44415441), None, DATA_FILE),
    ("AES", qcow2(crypt=1), None, ENCRYPTED),
    ("LUKS", qcow2(crypt=2), None, ENCRYPTED),
    ("LUKS header pointer", qcow2(extension=0x0537BE77), None, ENCRYPTED),
    (
        "corrupt bit",
        qcow2(incompatible=2),
        None,
        "the qcow2 image is marked corrupt; repair it with qemu-img check -r all first",
    ),
    (
        "unknown feature",
        qcow2(incompatible=1 << 40),
        None,
        (
            "the qcow2 image needs features that labd does not know (bits "
            "0x10000000000); convert it "
            "with qemu-img convert -O qcow2"
        ),
    ),
    (
        "version 1",
        qcow2(version=1),
        None,
        (
            "the image is qcow version 1, and labd takes 2 and 3; convert it with qemu-img convert "
            "-O qcow2"
        ),
    ),
    (
        "no magic",
        raw(b"no"),
        QCOW2,
        (
            "the image is declared qcow2 but does not begin with its magic (QFI\\xfb); leave the "
            "format out to have it found out"
        ),
    ),
    (
        "cut in the header",
        qcow2()[:60],
        None,
        "the qcow2 header is truncated: the file has 60 bytes; send it again",
    ),
    (
        "cut in the version 3 header",
        qcow2()[:90],
        None,
        "the qcow2 header is truncated: the file has 90 bytes; send it again",
    ),
    (
        "cut before the L1 table",
        qcow2()[: 3 * CLUSTER],
        None,
        (
            "the qcow2 image is truncated: its L1 table ends at byte 196624, the file has 196608 "
            "bytes; send it again"
        ),
    ),
    (
        "refcount table beyond the file",
        qcow2(reftable_offset=1 << 40),
        None,
        (
            "the qcow2 image is truncated: its refcount table ends at byte "
            "1099511693312, the file has "
            "262144 bytes; send it again"
        ),
    ),
    (
        "snapshot table beyond the file",
        qcow2(snapshots=1, snapshots_offset=1 << 30),
        None,
        (
            "the qcow2 image is truncated: its snapshot table ends at byte 1073741864, "
            "the file has "
            "262144 bytes; send it again"
        ),
    ),
    (
        "L1 table in the header",
        qcow2(l1_offset=0),
        None,
        (
            "the qcow2 header is damaged: its L1 table is at byte 0, which is no cluster of its "
            f"own; {CHECK}"
        ),
    ),
    (
        "L1 table not aligned",
        qcow2(l1_offset=CLUSTER + 8),
        None,
        (
            "the qcow2 header is damaged: its L1 table is at byte 65544, which is no cluster of "
            f"its own; {CHECK}"
        ),
    ),
    (
        "L1 table too small",
        qcow2(l1_entries=1),
        None,
        (
            "the qcow2 header is damaged: its L1 table has 1 entries, its virtual size "
            "needs 2, the "
            "limit is 4194304; check it with qemu-img check"
        ),
    ),
    (
        "L1 table huge",
        qcow2(l1_entries=0xFFFFFFFF),
        None,
        (
            "the qcow2 header is damaged: its L1 table has 4294967295 entries, its "
            "virtual size needs "
            "2, the limit is 4194304; check it with qemu-img check"
        ),
    ),
    (
        "refcount table huge",
        qcow2(reftable_clusters=0xFFFFFFFF),
        None,
        f"the qcow2 header is damaged: its refcount table has 4294967295 clusters; {CHECK}",
    ),
    (
        "no refcount table",
        qcow2(reftable_clusters=0),
        None,
        f"the qcow2 header is damaged: its refcount table has 0 clusters; {CHECK}",
    ),
    (
        "snapshots without end",
        qcow2(snapshots=0xFFFFFFFF),
        None,
        f"the qcow2 header is damaged: it claims 4294967295 snapshots; {CHECK}",
    ),
    (
        "refcount order",
        qcow2(refcount_order=7),
        None,
        f"the qcow2 header is damaged: refcount_order is 7, and 0 to 6 are possible; {CHECK}",
    ),
    (
        "cluster bits low",
        qcow2(cluster_bits=8),
        None,
        f"the qcow2 header is damaged: cluster_bits is 8, and 9 to 21 are possible; {CHECK}",
    ),
    (
        "cluster bits high",
        qcow2(cluster_bits=63),
        None,
        f"the qcow2 header is damaged: cluster_bits is 63, and 9 to 21 are possible; {CHECK}",
    ),
    (
        "header length",
        qcow2(header_length=0xFFFFFFF8),
        None,
        f"the qcow2 header is damaged: its length is 4294967288 bytes; {CHECK}",
    ),
    (
        "extension too long",
        qcow2(extension=0x6803F857, extension_length=0x7FFFFFFF),
        None,
        f"the qcow2 header is damaged: an extension reaches beyond the header; {CHECK}",
    ),
    (
        "virtual size 0",
        qcow2(virtual=0),
        None,
        "the disk has a virtual size of 0; make it anew with a size",
    ),
    (
        "virtual size absurd",
        qcow2(virtual=1 << 62),
        None,
        (
            "the disk claims a virtual size of 4194304 TiB, the limit is 64 TiB; shrink it with "
            "qemu-img resize --shrink"
        ),
    ),
    (
        "qcow2 said to be raw",
        qcow2(),
        RAW,
        "the image is declared raw but is a qcow2 file; import it as qcow2",
    ),
    (
        "raw cut",
        raw(b"", size=1000),
        None,
        (
            "the raw image has 1000 bytes, which is no multiple of 512: it is truncated "
            "or no disk; "
            "check the file and send it again"
        ),
    ),
    ("VMDK", raw(b"KDMV"), None, f"the image is a VMDK disk; {CONVERT}"),
    ("old VMDK", raw(b"COWD"), RAW, f"the image is a VMDK disk; {CONVERT}"),
    (
        "VMDK descriptor",
        raw(b'# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0'),
        RAW,
        "the image is a VMDK descriptor; convert the disk that it names to qcow2 first",
    ),
    ("VDI", raw(b"<<< Oracle VM"), None, f"the image is a VirtualBox disk (VDI); {CONVERT}"),
    ("VHDX", raw(b"vhdxfile"), None, f"the image is a VHDX disk; {CONVERT}"),
    ("VHD", raw(b"conectix"), None, f"the image is a VHD disk; {CONVERT}"),
    ("fixed VHD", raw(b"conectix", MIB - 512), RAW, f"the image is a VHD disk; {CONVERT}"),
    ("QED", raw(b"QED\0"), None, f"the image is a QED disk; {CONVERT}"),
    (
        "LUKS volume",
        raw(b"LUKS\xba\xbe"),
        None,
        "the image is an encrypted LUKS volume; decrypt it first",
    ),
    (
        "gzip",
        raw(b"\x1f\x8b\x08"),
        None,
        "the image is compressed with gzip; decompress it first (gunzip)",
    ),
    (
        "xz",
        raw(b"\xfd7zXZ\0"),
        None,
        "the image is compressed with xz; decompress it first (unxz)",
    ),
    (
        "zstd",
        raw(b"\x28\xb5\x2f\xfd"),
        None,
        "the image is compressed with zstd; decompress it first (unzstd)",
    ),
    ("zip", raw(b"PK\x03\x04"), None, "the image is a ZIP archive; unpack it first (unzip)"),
    (
        "OVA",
        raw(b"ustar", 257),
        None,
        "the image is a tar archive (an OVA?); unpack it first, and convert its disk to qcow2",
    ),
    (
        "error page",
        raw(b"\n<!DOCTYPE html>"),
        None,
        "the image is a web page or XML text; check the address that it came from",
    ),
    (
        "no ISO",
        raw(b""),
        ISO,
        (
            "the image is declared iso but has no ISO 9660 volume (CD001 at byte 32769); leave the "
            "format out to have it found out"
        ),
    ),
    (
        "ISO cut",
        iso(blocks=1000),
        None,
        "the ISO is truncated: its volume has 2048000 bytes, the file 34816; send it again",
    ),
    (
        "ISO cut in its descriptor",
        iso()[:32780],
        ISO,
        "the ISO is truncated: its volume descriptor is incomplete; send it again",
    ),
    ("no kernel", raw(b""), KERNEL, NO_KERNEL),
    ("kernel cut", kernel()[:1024], KERNEL, NO_KERNEL),
    (
        "kernel compressed",
        raw(b"\x1f\x8b"),
        KERNEL,
        "the kernel is compressed with gzip; decompress it first (gunzip)",
    ),
]


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


def _tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(
    ("data", "declared", "message"),
    [case[1:] for case in REFUSED],
    ids=[case[0].replace(" ", "-") for case in REFUSED],
)
async def test_bad_image_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, declared: ImageFormat | None, message: str
) -> None:
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    good = await store.receive("good", _stream(raw(b"boot")), format=None)
    before = _tree(tmp_path)
    with pytest.raises(ImageRefused) as caught:
        await store.receive("bad", _stream(data), format=declared)
    assert caught.value.message == message
    assert _tree(tmp_path) == before
    assert store.files(good)["disk"].read_bytes() == raw(b"boot")


@pytest.mark.parametrize(
    ("data", "declared", "found", "size"),
    [
        (qcow2(), None, QCOW2, GIB),
        (qcow2(64 * TIB), QCOW2, QCOW2, 64 * TIB),
        (qcow2(incompatible=1), None, QCOW2, GIB),  # dirty: QEMU repairs the counts by itself
        (qcow2(version=2), None, QCOW2, GIB),
        (iso(), None, ISO, 17 * 2048),
        (iso(), ISO, ISO, 17 * 2048),
        (iso(), RAW, RAW, 17 * 2048),  # a hybrid ISO may be used as a disk when that is said
        (raw(b""), None, RAW, MIB),
        (raw(b"\x55\xaa", 510, 512), RAW, RAW, 512),
        (kernel(), KERNEL, KERNEL, 0),
    ],
)
def test_good_images(
    data: bytes, declared: ImageFormat | None, found: ImageFormat, size: int
) -> None:
    facts = inspect(data[: 64 << 10], len(data), declared)
    assert (facts.format, facts.virtual_size) == (found, size)


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("Bad", "", "image name 'Bad' is not valid"),
        ("../x", "", "image name '../x' is not valid"),
        ("x", "123", "'123' is no sha256 digest; give 64 hex digits as sha256sum prints them"),
        ("x", "g" * 64, f"'{'g' * 64}' is no sha256 digest"),
    ],
)
async def test_bad_words_are_refused(tmp_path: Path, name: str, sha256: str, message: str) -> None:
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    with pytest.raises(InputError) as caught:
        await store.receive(name, _stream(raw(b"")), format=None, sha256=sha256)
    assert caught.value.message.startswith(message)
    assert _tree(tmp_path) == []


@given(
    st.binary(max_size=300),
    st.integers(0, 1 << 63),
    st.sampled_from([None, *ImageFormat]),
    st.booleans(),
)
def test_any_bytes_are_judged_and_never_crash(
    data: bytes, more: int, declared: ImageFormat | None, magic: bool
) -> None:
    head = b"QFI\xfb" + data if magic else data
    try:
        inspect(head, len(head) + (more if len(head) > 200 else 0), declared)
    except ImageRefused as refused:
        assert refused.message.isprintable()


@given(st.data())
def test_a_damaged_header_is_judged_and_never_crashes(data: st.DataObject) -> None:
    whole = bytearray(qcow2())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, 130))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(4, len(whole)))
    try:
        facts = inspect(bytes(whole[: min(length, 64 << 10)]), length, None)
    except ImageRefused:
        return
    assert 0 < facts.virtual_size <= 64 * TIB


def test_the_corpus_is_large_enough() -> None:
    assert len(REFUSED) >= 25
    assert asyncio.iscoroutinefunction(ImageStore.receive)
