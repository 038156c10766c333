"""What a storage class is: the suite that every driver of storage has to pass.

A new driver gets a line in `CLASSES`. What only a driver of files can show comes last.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from labd.drivers.storage.classes import StorageClasses
from labd.drivers.storage.local.checkpoints import CheckpointStore
from labd.drivers.storage.local.disks import LocalStorage
from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.port import Images, Storage
from labd.model.disks import DiskKind, DiskRef, image_disk, layer_disk
from labd.model.errors import InputError, LabdError, LaunchFailed, StorageFailed
from labd.model.images import Image, ImageFormat
from labd.model.units import GIB, MIB, TIB
from tests.fakes.images import FakeImages
from tests.fakes.storage import FakeStorage

DATA = os.urandom(MIB)
NONE = "sha256:" + "0" * 64
CLASSES = ["fake", "local", "classes"]


def disk(name: str = "root.qcow2", key: str = "abcdef") -> DiskRef:
    return DiskRef(kind=DiskKind.MACHINE, key=key, name=name)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Rig:
    """A storage class of an empty root, with one image of `DATA`."""

    root: Path
    storage: Storage
    images: Images
    image: Image

    def left(self) -> set[str]:
        """Return what there is of machines, whatever it is called."""
        nodes = self.root / "nodes"
        return {str(path.relative_to(nodes)) for path in nodes.rglob("*") if path.is_file()}

    async def content(self, ref: DiskRef) -> bytes:
        """Return the bytes by which a machine would get at a disk."""
        attached = await self.storage.attach(ref, writable=False)
        assert attached.fd is not None
        try:
            return os.pread(attached.fd, 64 * MIB, 0)
        finally:
            os.close(attached.fd)


@pytest.fixture(params=CLASSES)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return await made(request.param, tmp_path)


@pytest.fixture
async def local(tmp_path: Path) -> Rig:
    return await made("local", tmp_path)


async def made(kind: str, root: Path) -> Rig:
    images: Images
    storage: Storage
    if kind == "fake":
        fake = images = FakeImages(root / "images")
        storage = FakeStorage(root, lambda ref: ref.key in fake.contents)
    else:
        images, storage = ImageStore(root, root / "cache"), LocalStorage(root)
        if kind == "classes":
            (root / "fast").mkdir()
            other = LocalStorage(root, root / "fast", "fast")
            storage = StorageClasses({"local": storage, "fast": other})
    image = await images.receive("base", stream(DATA), format=ImageFormat.RAW)
    return Rig(root, storage, images, image)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


# making


async def test_a_blank_disk_has_the_size_in_whole_sectors(rig: Rig) -> None:
    for size, has in ((512, 512), (1000, 1024), (10 * GIB, 10 * GIB), (64 * TIB, 64 * TIB)):
        ref = disk(f"disk-{size}.qcow2")
        assert not await rig.storage.exists(ref)
        assert await rig.storage.virtual_size(ref) is None
        await rig.storage.create(ref, size)
        assert await rig.storage.exists(ref)
        assert await rig.storage.virtual_size(ref) == has
    assert (await rig.storage.sizes("abcdef"))["disk-1000.qcow2"] == 1024
    assert await rig.storage.sizes("nobody") == {}


@pytest.mark.parametrize("size", [0, -512, 65 * TIB])
async def test_no_disk_of_an_impossible_size(rig: Rig, size: int) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        await rig.storage.create(disk(), size)
    assert not await rig.storage.exists(disk())
    assert rig.left() == set()


async def test_a_clone_is_as_large_as_its_image_or_larger(rig: Rig) -> None:
    await rig.storage.clone(disk("a.qcow2"), rig.image, None)
    await rig.storage.clone(disk("b.qcow2"), rig.image, 10 * GIB)
    assert await rig.storage.sizes("abcdef") == {"a.qcow2": MIB, "b.qcow2": 10 * GIB}
    with pytest.raises(InputError, match="smaller than image base"):
        await rig.storage.clone(disk("c.qcow2"), rig.image, 512)
    assert not await rig.storage.exists(disk("c.qcow2"))


async def test_no_clone_of_what_has_no_disk(rig: Rig) -> None:
    kernel = replace(rig.image, format=ImageFormat.KERNEL, files=("kernel",))
    with pytest.raises(InputError, match="has no disk to write on"):
        await rig.storage.clone(disk(), kernel, None)
    assert rig.left() == set()


async def test_a_child_has_the_size_of_its_parent(rig: Rig) -> None:
    await rig.storage.create(disk(), 3 * GIB)
    await rig.storage.child(disk("root.t1.qcow2"), disk())
    await rig.storage.child(disk("root.qcow2", key="zzzzzz"), disk("root.t1.qcow2"))
    assert await rig.storage.virtual_size(disk("root.qcow2", key="zzzzzz")) == 3 * GIB
    with pytest.raises(StorageFailed):
        await rig.storage.child(disk("x.qcow2"), disk("none.qcow2"))
    with pytest.raises(StorageFailed):
        await rig.storage.child(disk("x.qcow2"), layer_disk(NONE))
    assert not await rig.storage.exists(disk("x.qcow2"))


async def test_what_there_is_stays_as_it_was(rig: Rig) -> None:
    await rig.storage.create(disk(), MIB)
    await rig.storage.create(disk("other.qcow2"), GIB)
    before = await rig.content(disk())
    makers: list[Callable[[], Awaitable[None]]] = [
        lambda: rig.storage.create(disk(), GIB),
        lambda: rig.storage.clone(disk(), rig.image, None),
        lambda: rig.storage.child(disk(), disk("other.qcow2")),
    ]
    for make in makers:
        with pytest.raises(StorageFailed):
            await make()
    assert await rig.content(disk()) == before
    assert rig.left() == {"abcdef/root.qcow2", "abcdef/other.qcow2"}


async def test_a_disk_grows_and_never_shrinks(rig: Rig) -> None:
    await rig.storage.create(disk(), MIB)
    for size in (MIB, 5 * MIB, GIB):
        await rig.storage.grow(disk(), size)
        assert await rig.storage.virtual_size(disk()) == size
    with pytest.raises(InputError, match="cannot become"):
        await rig.storage.grow(disk(), MIB)
    assert await rig.storage.virtual_size(disk()) == GIB
    with pytest.raises(StorageFailed):
        await rig.storage.grow(disk("none.qcow2"), GIB)


async def test_a_seed_is_the_same_for_the_same_files(rig: Rig) -> None:
    seed, found = disk("seed.iso"), []
    for text in (b"one", b"two", b"one"):
        await rig.storage.seed(seed, {"user-data": text, "meta-data": b"{}"})
        found.append(await rig.content(seed))
    assert found[0] == found[2] != found[1]
    assert rig.left() == {"abcdef/seed.iso"}
    assert await rig.storage.sizes("abcdef") == {}, "nobody writes to it"


# attaching


@pytest.mark.usefixtures("no_descriptor_left")
async def test_a_machine_gets_descriptors_and_no_paths(rig: Rig) -> None:
    await rig.storage.create(disk(), MIB)
    for writable in (False, True):
        attached = await rig.storage.attach(disk(), writable=writable)
        assert not any("/" in str(value) for value in attached.options.values())
        assert attached.driver
        if attached.fd is None:
            continue
        assert not os.get_inheritable(attached.fd), "whoever spawns says what is passed"
        if writable:
            os.pwrite(attached.fd, b"x", MIB)
        else:
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                os.pwrite(attached.fd, b"x", MIB)
        os.close(attached.fd)


@pytest.mark.usefixtures("no_descriptor_left")
async def test_two_that_attach_a_disk_know_nothing_of_each_other(rig: Rig) -> None:
    await rig.storage.create(disk(), MIB)
    both = [await rig.storage.attach(disk(), writable=True) for _ in range(2)]
    first, second = (attached.fd for attached in both)
    if first is None or second is None:
        assert first is second
        return
    os.lseek(first, 4, os.SEEK_SET)
    assert os.lseek(second, 0, os.SEEK_CUR) == 0, "one open file would have one image lock"
    os.close(first)
    assert len(os.pread(second, 4, 0)) == 4
    os.close(second)


@pytest.mark.usefixtures("no_descriptor_left")
async def test_what_is_missing_is_not_attached(rig: Rig) -> None:
    for ref in (disk(), layer_disk(NONE), image_disk(NONE)):
        with pytest.raises((LaunchFailed, StorageFailed)):
            await rig.storage.attach(ref, writable=False)


@pytest.mark.usefixtures("no_descriptor_left")
async def test_an_attachment_that_is_cancelled_leaves_no_descriptor(rig: Rig) -> None:
    await rig.storage.create(disk(), MIB)
    for pauses in range(6):
        task = asyncio.create_task(rig.storage.attach(disk(), writable=True))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(done, BaseException) and done.fd is not None:
            os.close(done.fd)
    async with asyncio.timeout(10):
        while any("root.qcow2" in name for name in opened()):
            await asyncio.sleep(0.01)


def opened() -> list[str]:
    found = []
    for number in descriptors():
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # that of the folder itself
            continue
    return found


# letting go


async def test_what_is_deleted_is_gone_however_often_it_is_asked(rig: Rig) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        await rig.storage.create(disk(name), MIB)
    for _ in range(2):
        await rig.storage.delete(disk("a.qcow2"))
        assert not await rig.storage.exists(disk("a.qcow2"))
    assert await rig.storage.exists(disk("b.qcow2"))
    assert await rig.storage.usage("abcdef") > 0
    for _ in range(2):
        await rig.storage.discard("abcdef")
        assert await rig.storage.usage("abcdef") == 0
    assert rig.left() == set()


async def test_what_others_share_is_not_deleted(rig: Rig) -> None:
    with pytest.raises(StorageFailed):
        await rig.storage.delete(image_disk(rig.image.digest))
    assert await rig.storage.exists(image_disk(rig.image.digest))


async def test_a_sweep_leaves_the_machines_that_are_known(rig: Rig) -> None:
    for key in ("one", "two", "three"):
        await rig.storage.create(disk(key=key), MIB)
    assert list(await rig.storage.machines()) == ["one", "three", "two"]
    assert set(await rig.storage.sweep(["two", "unknown"])) == {"one", "three"}
    assert list(await rig.storage.machines()) == ["two"]
    assert list(await rig.storage.sweep(["two"])) == []
    assert await rig.storage.exists(disk(key="two"))


@pytest.mark.parametrize(
    "ref",
    [
        disk("../../../etc/shadow"),
        disk("..", key="k"),
        disk("x", key="../k"),
        disk("x", key=""),
        replace(disk(), storage="other"),
        replace(disk(), storage="../local"),
    ],
    ids=str,
)
async def test_a_name_leads_nowhere_else(rig: Rig, ref: DiskRef) -> None:
    if (
        isinstance(rig.storage, FakeStorage)
        and ref.storage == "local"
        and "/" not in ref.key + (ref.name)
    ):
        return  # the fake knows no more of names than that they have no slash
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: rig.storage.create(ref, MIB),
        lambda: rig.storage.clone(ref, rig.image, None),
        lambda: rig.storage.attach(ref, writable=True),
        lambda: rig.storage.seed(ref, {"a": b""}),
        lambda: rig.storage.delete(ref),
    ]
    for call in calls:
        with pytest.raises(StorageFailed):
            await call()
    assert rig.left() == set()


# real bytes


async def run(*argv: str) -> str:
    def work() -> str:
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return done.stdout

    return await asyncio.to_thread(work)


def path(rig: Rig, ref: DiskRef) -> str:
    return str(rig.root / "nodes" / ref.key / ref.name)


async def test_qemu_reads_what_the_clone_and_its_child_stand_on(local: Rig) -> None:
    first, second = disk(), disk("root.t1.qcow2")
    await local.storage.clone(first, local.image, 4 * MIB)
    await run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 64k", path(local, first))
    await local.storage.child(second, first)
    for ref in (first, second):
        assert os.stat(path(local, ref)).st_mode & 0o777 == 0o600
        await run("qemu-img", "check", "-f", "qcow2", path(local, ref))
    plain = str(local.root / "plain")
    await run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path(local, second), plain)
    data = Path(plain).read_bytes()
    assert len(data) == 4 * MIB
    assert data[:MIB] == DATA
    assert data[2 * MIB : 2 * MIB + 65536] == b"\x09" * 65536


@pytest.mark.parametrize(("before", "after"), [(MIB, 40 * MIB), (GIB, 3 * TIB), (MIB, 4 * TIB)])
async def test_qemu_finds_nothing_wrong_with_a_disk_that_has_grown(
    local: Rig, before: int, after: int
) -> None:
    await local.storage.create(disk(), before)
    file = path(local, disk())
    await run("qemu-io", "-f", "qcow2", "-c", f"write -P 5 {before - 512} 512", file)
    await local.storage.grow(disk(), after)
    await run("qemu-img", "check", "-f", "qcow2", file)
    commands = (f"read -P 5 {before - 512} 512", f"read -P 0 {after - 512} 512")
    for command in (*commands, f"write -P 7 {after - 512} 512", f"read -P 7 {after - 512} 512"):
        assert "verification failed" not in await run("qemu-io", "-f", "qcow2", "-c", command, file)
    await run("qemu-img", "check", "-f", "qcow2", file)


async def test_a_disk_that_cannot_grow_so_far_is_told_and_stays(local: Rig) -> None:
    await local.storage.create(disk(), MIB)
    with pytest.raises(StorageFailed, match=r"cannot grow to 5 TiB in place"):
        await local.storage.grow(disk(), 5 * TIB)
    assert await local.storage.virtual_size(disk()) == MIB


async def test_a_layer_is_taken_in_by_name(local: Rig) -> None:
    await local.storage.create(disk(), MIB)
    store = CheckpointStore(local.root, "ram", local.storage)
    await store.stage("k")
    digest = await store.add_layer(disk())
    ref = store.layer(digest)
    assert store.digest_of(ref) == digest
    assert store.digest_of(disk()) == ""
    assert await local.content(ref) == await local.content(disk())
    await local.storage.child(disk("copy.qcow2"), ref)
    assert await local.storage.virtual_size(disk("copy.qcow2")) == MIB
    with pytest.raises(StorageFailed, match="cannot store a disk of the lab"):
        await store.add_layer(disk("none.qcow2"))


async def test_each_disk_is_in_the_class_that_it_names(tmp_path: Path) -> None:
    rig = await made("classes", tmp_path)
    here, there = disk("a.qcow2"), replace(disk("b.qcow2"), storage="fast")
    await rig.storage.clone(here, rig.image, None)
    await rig.storage.clone(there, rig.image, 2 * MIB)
    assert rig.left() == {"abcdef/a.qcow2"}
    file = str(tmp_path / "fast/nodes/abcdef/b.qcow2")
    await run("qemu-img", "check", "-f", "qcow2", file)
    plain = str(tmp_path / "plain")
    await run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, plain)
    assert Path(plain).read_bytes()[:MIB] == DATA
    assert await rig.storage.sizes("abcdef") == {"a.qcow2": MIB, "b.qcow2": 2 * MIB}
    await rig.storage.create(replace(there, key="zzzzzz"), MIB)
    assert list(await rig.storage.machines()) == ["abcdef", "zzzzzz"]
    with pytest.raises(StorageFailed, match=r"storage class 'slow', which labd.toml has not"):
        await rig.storage.attach(replace(here, storage="slow"), writable=True)
    assert list(await rig.storage.sweep(["zzzzzz"])) == ["abcdef"]
    await rig.storage.discard("zzzzzz", "abcdef")
    assert list(await rig.storage.machines()) == []


_DIES = """
import asyncio, resource, signal, sys
from pathlib import Path
from labd.drivers.storage.local.disks import LocalStorage
from labd.model.disks import DiskKind, DiskRef
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (70000, 70000))
ref = DiskRef(kind=DiskKind.MACHINE, key="abcdef", name="root.qcow2")
asyncio.run(LocalStorage(Path(sys.argv[1])).create(ref, 1 << 20))
"""


async def test_a_daemon_that_dies_half_way_leaves_no_half_of_a_disk(local: Rig) -> None:
    argv = [sys.executable, "-c", _DIES, str(local.root)]
    died = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)
    assert died.returncode < 0, died.stderr
    assert not await local.storage.exists(disk()), "a later start would take it for whole"
    assert await local.storage.sizes("abcdef") == {}
    await local.storage.create(disk(), MIB)
    assert local.left() == {"abcdef/root.qcow2"}
    await run("qemu-img", "check", "-f", "qcow2", path(local, disk()))


async def test_no_space_leaves_nothing(local: Rig) -> None:
    await local.storage.create(disk("before.qcow2"), MIB)
    left = local.left()
    nodes = LocalStorage(local.root, Path("/dev/full"))
    with pytest.raises(StorageFailed):
        await nodes.create(disk(), MIB)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70000, hard))
    try:
        failing: list[Callable[[], Awaitable[None]]] = [
            lambda: local.storage.create(disk(), MIB),
            lambda: local.storage.clone(disk(), local.image, None),
            lambda: local.storage.child(disk(), disk("before.qcow2")),
        ]
        for make in failing:
            with pytest.raises(LabdError) as caught:
                await make()
            assert caught.value.code == StorageFailed("").code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert local.left() == left
