"""Streams taken apart, chains of disks, sealed memory, and what fits a host. No QEMU."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import mmap
import os
import struct
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.cli.verbs.node import node as node_verbs
from labd.cli.verbs.profile import profile as profile_verbs
from labd.core import chains
from labd.drivers.node.qemu.argv import fingerprint
from labd.drivers.storage.local import archive, checking, memory
from labd.drivers.storage.local.checkpoints import CheckpointStore
from labd.drivers.storage.local.disks import LocalStorage
from labd.drivers.storage.local.stream import PAGE, split
from labd.features.checkpoints.service import misfit
from labd.model.checkpoints import CheckpointRecord, HostFacts, SavedDisk, SavedNode
from labd.model.disks import DiskKind, DiskRef, digest_of_layer, image_disk, layer_disk
from labd.model.errors import InputError, StorageFailed, TemplateError
from labd.model.images import ImageFormat
from labd.model.machine import CpuSetting, Disk, MachineSpec
from labd.model.specs import MAX_VCPUS, LabSpec, Machine, NodeSpec
from labd.template import load
from labd.template.recheck import check_spec

# A migration stream as QEMU 7.2 writes it (migration/savevm.c, migration/ram.c)

ZERO, BLOCKS, DATA, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
TAIL = b"\x04\x00\x00\x00\x07devices and what not\x00"


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def page(block: str, offset: int, fill: int, last: str) -> bytes:
    """Return one record; its block is named unless it is the last one's."""
    flags = (DATA if fill else ZERO) | (CONTINUE if block == last else 0)
    name = b"" if block == last else bytes([len(block)]) + block.encode()
    return u64(offset | flags) + name + (bytes([fill]) * PAGE if fill else b"\0")


def stream(
    sections: list[list[tuple[str, int, int]]], blocks: dict[str, int], tail: bytes = TAIL
) -> bytes:
    """Return a stream; each section is a list of (block, offset, fill), 0 for a page of zeros."""
    out = b"QEVM" + u32(3) + b"\x07" + u32(10) + b"pc-q35-7.2"
    out += b"\x01" + u32(2) + b"\x03ram" + u32(0) + u32(4)
    out += u64(sum(blocks.values()) | BLOCKS)
    for name, size in blocks.items():
        out += bytes([len(name)]) + name.encode() + u64(size)
    out += u64(EOS) + b"\x7e" + u32(2)
    last = ""
    for index, section in enumerate(sections):
        out += (b"\x03" if index + 1 == len(sections) else b"\x02") + u32(2)
        for block, offset, fill in section:
            out += page(block, offset, fill, last)
            last = block
        out += u64(EOS) + b"\x7e" + u32(2)
    return out + tail


BOTH = {"ram": 8 * PAGE, "pc.bios": 4 * PAGE}


def taken(data: bytes) -> tuple[dict[int, int], bytes]:
    """Return offset -> first byte of the last page that came, and the rest."""
    pages: dict[int, int] = {}

    def sink(offset: int, content: memoryview | None) -> None:
        pages[offset] = content[0] if content is not None else 0

    found = split(memoryview(data), "ram", sink)
    assert found.machine_type == "pc-q35-7.2"
    assert found.size == 8 * PAGE
    return pages, bytes(found.rest)


def test_pages_go_one_way_and_the_rest_another() -> None:
    sections = [
        [("ram", 0, 1), ("ram", PAGE, 0), ("pc.bios", 0, 9), ("pc.bios", PAGE, 8)],
        [("ram", 2 * PAGE, 3)],
        [("ram", 0, 7), ("pc.bios", 2 * PAGE, 6)],
    ]
    pages, rest = taken(stream(sections, BOTH))
    assert pages == {0: 7, PAGE: 0, 2 * PAGE: 3}, "the last one counts"
    kept = [[item for item in section if item[0] != "ram"] for section in sections]
    assert rest == stream(kept, BOTH).replace(
        u64(2 * PAGE | DATA | CONTINUE), u64(2 * PAGE | DATA) + b"\x07pc.bios"
    )


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["ram", "pc.bios"]),
                st.integers(0, 3).map(lambda n: n * PAGE),
                st.integers(0, 255),
            ),
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_nothing_is_lost_whatever_the_order(sections: list[list[tuple[str, int, int]]]) -> None:
    pages, rest = taken(stream(sections, BOTH))
    flat = [item for section in sections for item in section]
    assert pages == {offset: fill for block, offset, fill in flat if block == "ram"}
    assert rest.endswith(TAIL)
    again: list[int] = []
    split(memoryview(rest), "pc.bios", lambda _, data: again.append(data[0] if data else 0))
    assert again == [fill for block, _, fill in flat if block == "pc.bios"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no migration stream"),
        (b"QEVM" + u32(3), "ends too early"),
        (stream([[("ram", 0, 1)]], BOTH)[:-60], "ends too early"),
        (stream([[("ram", 0, 1)]], BOTH)[:3000], "ends too early"),
        (stream([[]], {"pc.bios": PAGE}), "has no block ram"),
        (stream([[("ram", 0, 1)]], BOTH).replace(u64(DATA), u64(0x800)), "page of kind 0x800"),
        (stream([[]], BOTH).replace(b"\x03ram", b"\x03rom"), "begins with section 'rom'"),
    ],
)
def test_a_stream_that_is_none_is_told(data: bytes, text: str) -> None:
    with pytest.raises(StorageFailed, match=text):
        split(memoryview(data), "ram", lambda *_: None)


# memory


def test_sealed_memory_cannot_be_changed() -> None:
    canvas = memory.Canvas("test", 4 * PAGE)
    canvas.put(PAGE, memoryview(b"a" * PAGE))
    canvas.put(2 * PAGE, memoryview(b"b" * PAGE))
    canvas.put(2 * PAGE, None)
    fd = canvas.seal()
    try:
        assert os.pread(fd, 1, PAGE) == b"a"
        assert os.pread(fd, PAGE, 2 * PAGE) == bytes(PAGE)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            for attempt in (
                lambda: os.pwrite(again, b"x", 0),
                lambda: os.ftruncate(again, 0),
                lambda: mmap.mmap(again, PAGE),
                lambda: fcntl.fcntl(again, fcntl.F_ADD_SEALS, 0),
            ):
                with pytest.raises(OSError) as caught:
                    attempt()
                assert caught.value.errno == errno.EPERM
        finally:
            os.close(again)
    finally:
        os.close(fd)


def test_a_sparse_file_keeps_its_digest_and_its_holes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with first.open("wb") as file:
        file.truncate(64 * PAGE)
        file.seek(3 * PAGE)
        file.write(b"x" * 100)
        file.seek(9 * PAGE)
        file.write(bytes(8 * PAGE))  # zeros that were written
        file.write(b"y" * PAGE)
    with first.open("rb") as source, second.open("wb+") as target:
        digest, size = memory.copy(source.fileno(), target.fileno())
        assert size == 2 * PAGE
        assert memory.digest(target.fileno()) == digest == memory.digest(source.fileno())
        assert os.fstat(target.fileno()).st_blocks * 512 <= 3 * PAGE
    assert first.read_bytes() == second.read_bytes()
    fd = memory.load(second, "x", digest)
    os.close(fd)
    with second.open("r+b") as file:
        file.seek(40 * PAGE)
        file.write(b"z")
    with pytest.raises(StorageFailed, match="second is not what was saved"):
        memory.load(second, "x", digest)
    with pytest.raises(StorageFailed, match="cannot read none: No such file"):
        memory.load(tmp_path / "none", "x", digest)


# chains of disks

FOLDER = Path("/state/nodes/abcdef")
BASE = (image_disk("sha256:" + "d" * 64), ImageFormat.RAW)


def top(name: str, key: str = "abcdef") -> DiskRef:
    return DiskRef(kind=DiskKind.MACHINE, key=key, name=name)


ROOT = Disk(id="root", ref=top("root-12.qcow2"), format=ImageFormat.QCOW2, backing=(BASE,))
CD = Disk(id="cd0", ref=BASE[0], format=ImageFormat.RAW, read_only=True, cdrom=True)
MACHINE = MachineSpec(
    lab="l",
    node="n",
    key="abcdef",
    uuid="9e3bf5f0-3f0a-4b2d-8a42-6f0b3a1c9d10",
    uid=1000,
    folder=FOLDER,
    run=Path("/run/n"),
    vcpus=1,
    memory=128 << 20,
    machine=Machine.Q35,
    disks=(ROOT, CD),
)


ONE = "sha256:" + "1" * 64


def test_a_disk_grows_settles_and_is_forked() -> None:
    grown, growths = chains.grow(MACHINE, "t1")
    assert [(g.disk, g.top) for g in growths] == [("root", top("root-12.t1.qcow2"))]
    assert grown.disks[0].backing == ((ROOT.ref, ImageFormat.QCOW2), BASE)
    assert grown.disks[1] is CD
    assert chains.own_layers(grown) == [ROOT.ref]
    settled = chains.settle(grown, {ROOT.ref: layer_disk(ONE)})
    assert chains.own_layers(settled) == []
    assert chains.references(settled, digest_of_layer) == {ONE}
    saved = chains.saved_disks(settled, digest_of_layer)
    assert [(disk.id, disk.name, disk.layers) for disk in saved] == [
        ("root", "root-12.qcow2", (ONE,))
    ]
    fresh = (replace(ROOT, ref=top("root-12.qcow2", "zzzzzz")), CD)
    copy = chains.forked(fresh, saved, layer_disk)
    assert copy[0].ref == top("root-12.qcow2", "zzzzzz")
    assert copy[0].backing == ((layer_disk(ONE), ImageFormat.QCOW2), BASE)
    assert copy[1] is CD
    again, _ = chains.grow(settled, "t2")
    assert again.disks[0].ref == top("root-12.t2.qcow2")
    assert chains.own_layers(again) == [top("root-12.t1.qcow2")]


def test_a_machine_that_is_built_anew_keeps_its_chains() -> None:
    grown, _ = chains.grow(MACHINE, "t1")
    assert chains.keep(MACHINE, grown).disks == grown.disks
    other = replace(MACHINE, disks=(replace(ROOT, ref=top("root-34.qcow2")), CD))
    assert chains.keep(other, grown) == other, "another image makes another disk"
    assert chains.keep(MACHINE, None) is MACHINE


# for other hosts


def test_an_archive_is_read_back_and_a_wrong_one_refused(tmp_path: Path) -> None:
    folder, layers, out = tmp_path / "c", tmp_path / "layers", tmp_path / "out"
    for path in (folder, layers, out):
        path.mkdir()
    with (folder / "n.ram").open("wb") as file:
        file.truncate(16 * PAGE)
        file.seek(5 * PAGE)
        file.write(b"m" * PAGE)
    content = b"QFI\xfb" + bytes(2 * PAGE)
    (layers / ("a" * 64)).write_bytes(content)
    disk = SavedDisk(id="root", name="root-1.qcow2", layers=("sha256:" + "a" * 64,))
    good = "sha256:" + "0" * 64
    node = replace(record().nodes[0], ram=good, state=good, disks=(disk,))
    lab = LabSpec(template="t", nodes=(NodeSpec(name="n"),))
    saved = replace(record(), nodes=(node,), spec=lab)
    path = tmp_path / "c.tar"
    with pytest.raises(FileNotFoundError, match="n.state"):
        next(archive.pack(saved, folder, layers))
    (folder / "n.state").write_bytes(b"state")
    path.write_bytes(b"".join(archive.pack(saved, folder, layers)))
    assert path.stat().st_size < 12 * PAGE, "holes stay at home"
    assert archive.unpack(path, out) == saved
    for name in ("n.ram", "n.state"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert (out / ("layer-" + "a" * 64)).read_bytes() == content
    for data, text in (
        (b"", "no exported checkpoint"),
        (b"x" * 5000, "no exported checkpoint"),
        (path.read_bytes()[:-12_000], "incomplete|cut short"),
    ):
        path.write_bytes(data)
        target = tmp_path / f"t{len(data)}"
        target.mkdir()
        with pytest.raises(InputError, match=text):
            archive.unpack(path, target)


def test_names_of_a_manifest_are_checked() -> None:
    good = "sha256:" + "0" * 64
    node = replace(record().nodes[0], ram=good, state=good)
    lab = LabSpec(template="t", nodes=(NodeSpec(name="n"),))
    fine = replace(record(), nodes=(node,), spec=lab)
    checking.check_record(fine)
    evil = SavedDisk(id="root", name="../x.qcow2", layers=())
    for bad, text in (
        (replace(node, name="../n"), "node name"),
        (replace(node, state="../x"), "digest"),
        (replace(node, disks=(evil,)), "names a file"),
        (replace(node, files=(("/etc/passwd", good),)), "names a file"),
        (replace(node, name="other"), "are not those of its spec"),
    ):
        with pytest.raises(InputError, match=text):
            checking.check_record(replace(fine, nodes=(bad,)))


def test_a_cpu_setting_of_a_manifest_is_one_of_ours_or_the_one_of_before() -> None:
    data = json.loads(archive.manifest(record(kvm=True)))
    data["nodes"][0]["cpu"] = "kvm64"
    assert archive.read_manifest(json.dumps(data).encode()).nodes[0].cpu is CpuSetting.KVM64
    del data["nodes"][0]["cpu"]  # as an older labd wrote it
    assert archive.read_manifest(json.dumps(data).encode()) == record(kvm=True)
    data["nodes"][0]["cpu"] = "host,-device=x"  # it would be an argument of QEMU's
    with pytest.raises(InputError, match=r"no manifest of a checkpoint: nodes.0.cpu: Input should"):
        archive.read_manifest(json.dumps(data).encode())


def test_vcpus_have_one_bound_for_templates_manifests_and_commands() -> None:
    def lab(vcpus: int) -> LabSpec:
        return LabSpec(template="t", nodes=(NodeSpec(name="n", vcpus=vcpus),))

    load(f"name: t\nnodes: {{n: {{image: tiny, vcpus: {MAX_VCPUS}}}}}\n", "t.yaml")
    check_spec(lab(MAX_VCPUS))
    with pytest.raises(TemplateError, match="vcpus"):
        load(f"name: t\nnodes: {{n: {{image: tiny, vcpus: {MAX_VCPUS + 1}}}}}\n", "t.yaml")
    for vcpus in (-1, MAX_VCPUS + 1):
        with pytest.raises(InputError, match=f"node 'n': vcpus: '{vcpus}'"):
            check_spec(lab(vcpus))
    commands = (node_verbs.commands["add"], profile_verbs.commands["add"])
    types = [item.type for verb in commands for item in verb.params if item.name == "vcpus"]
    assert [(item.min, item.max) for item in types if isinstance(item, click.IntRange)] == [
        (1, MAX_VCPUS),
        (1, MAX_VCPUS),
    ]


# where it fits


def test_what_the_guest_sees_has_a_fingerprint() -> None:
    seen = fingerprint(MACHINE)
    same = replace(
        MACHINE, lab="x", key="zzzzzz", uid=7, folder=Path("/x"), machine_type="pc-q35-7.2"
    )
    assert fingerprint(same) == seen
    for other in (
        replace(MACHINE, memory=256 << 20),
        replace(MACHINE, vcpus=2),
        replace(MACHINE, kvm=True),
        replace(MACHINE, disks=(ROOT,)),
        replace(MACHINE, machine=Machine.PC),
    ):
        assert fingerprint(other) != seen


def record(*, kvm: bool = False, flags: tuple[str, ...] = ()) -> CheckpointRecord:
    node = SavedNode(
        name="n",
        kvm=kvm,
        memory=128 << 20,
        machine_type="pc-q35-7.2",
        fingerprint="",
        image="",
        ram="",
        ram_bytes=0,
        state="",
    )
    return CheckpointRecord(
        name="c",
        key="abcdef",
        lab="l",
        spec=LabSpec(template="t"),
        nodes=(node,),
        qemu="7.2.22",
        cpu_model="Old CPU",
        cpu_flags=flags,
    )


def test_a_checkpoint_is_refused_where_it_cannot_work() -> None:
    known = frozenset({"pc-q35-7.2"})
    assert misfit(record(), HostFacts(qemu="7.2.5", machines=known)) == ""
    assert "which QEMU 6.1.0 does not have; install QEMU 7.2.22" in misfit(
        record(), HostFacts(qemu="6.1.0")
    )
    assert "software emulation, whose CPU is another one in QEMU 8.0.1" in misfit(
        record(), HostFacts(qemu="8.0.1", machines=known)
    )
    newer = HostFacts(qemu="8.0.1", machines=known, cpu_flags=frozenset({"sse2"}))
    assert misfit(record(kvm=True, flags=("sse2",)), newer) == ""
    assert "saved on Old CPU, and this host's CPU lacks avx, avx2" in misfit(
        record(kvm=True, flags=("avx", "avx2", "sse2")), newer
    )


async def test_what_is_cancelled_as_it_is_published_is_published_by_then(tmp_path: Path) -> None:
    """Whoever discards it after the cancellation leaves no half of it to a thread."""
    store = CheckpointStore(tmp_path, "pc.ram", LocalStorage(tmp_path))
    record = CheckpointRecord(
        name="c",
        key="k",
        lab="web",
        message="",
        created="",
        spec=LabSpec(template="t"),
        nodes=(),
        qemu="7.2.0",
        cpu_model="",
        cpu_flags=(),
        spread=0.0,
        pause=0.0,
    )
    folder = await store.stage("k")
    for number in range(200):  # each is made durable, which takes a while
        (folder / f"{number}.nvram").write_bytes(b"x" * 4096)
    task = asyncio.create_task(store.publish(record))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "checkpoints/k/manifest.json").exists()
    await store.discard("k")
    assert not (tmp_path / "checkpoints/k").exists()
    assert list((tmp_path / "checkpoints/.partial").iterdir()) == []
