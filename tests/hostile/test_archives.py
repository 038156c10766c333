"""Archives as attackers make them: checkpoints of other hosts, and what a guest sends to lab cp."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import struct
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labd.cli.untar import unpack
from labd.drivers.storage.local import archive, memory
from labd.drivers.storage.local.checkpoints import CheckpointStore
from labd.drivers.storage.local.disks import LocalStorage
from labd.model.checkpoints import CheckpointRecord, SavedDisk, SavedNode
from labd.model.errors import GuestFailed, InputError
from labd.model.specs import LabSpec, NodeSpec
from tests.hostile.makers import external_data, qcow2

RUN = struct.Struct(">QQ")
STATE = b"state"
Member = tuple[str, bytes, bytes]  # name, type, content


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def runs(*parts: tuple[int, bytes], size: int) -> bytes:
    return b"".join(RUN.pack(at, len(data)) + data for at, data in parts) + RUN.pack(size, 0)


def sparse_digest(folder: Path, content: bytes) -> str:
    """Return the digest that leaves holes out."""
    path = folder / "content"
    path.write_bytes(content)
    with path.open("rb") as file:
        return memory.digest(file.fileno())


def record(*, ram: str = "", layer: str = "") -> CheckpointRecord:
    node = SavedNode(
        name="n",
        kvm=False,
        memory=1 << 20,
        machine_type="pc-q35-7.2",
        fingerprint="",
        image="",
        ram=ram or digest(b""),
        ram_bytes=0,
        state=digest(STATE),
        disks=(SavedDisk(id="root", name="root.qcow2", layers=(layer,)),) if layer else (),
    )
    spec = LabSpec(template="t", nodes=(NodeSpec(name="n"),))
    return CheckpointRecord(name="c", key="k", lab="l", spec=spec, nodes=(node,), qemu="7.2.22")


def manifest(change: Callable[[dict[str, Any]], object] = lambda _: None) -> bytes:
    data = json.loads(archive.manifest(record()))
    change(data)
    return json.dumps(data).encode()


def tar(*members: Member) -> bytes:
    out = b""
    for name, kind, content in members:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        out += info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
    return out + bytes(1024)


def checkpoint(
    *, first: bytes | None = None, ram: bytes = runs(size=4096), more: bytes = b""
) -> bytes:
    head: Member = ("manifest.json", b"0", manifest() if first is None else first)
    body: list[Member] = [("n.ram", b"0", ram), ("n.state", b"0", STATE)]
    return more + tar(head, *body)


def linked(target: str) -> list[bytes]:
    """Return archives that lead to a file of the host by links and by names."""
    found = []
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        for place in ("manifest.json", "n.ram"):
            info = tarfile.TarInfo(place)
            info.type, info.linkname = kind, target
            link = info.tobuf(tarfile.USTAR_FORMAT)
            rest = tar((place, b"0", runs(size=4096)), ("n.state", b"0", STATE))
            first = b"" if place == "manifest.json" else tar(("manifest.json", b"0", manifest()))
            found.append(first[:-1024] + link + rest)
    return found + [
        tar(("manifest.json", b"0", manifest()), (name, b"0", runs(size=4096)))
        for name in (target, f"../../..{target}")
    ]


def extended(count: int, text: bytes = b"12 path=abc\n") -> bytes:
    """Return a chain of extended headers (POSIX.1-2001)."""
    one = tar(("x", b"x", text))[:-1024]
    return one * count


def claiming(name: str, kind: bytes, size: int) -> bytes:
    """Return a header whose content never comes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """Return the header of a GNU sparse file that claims to be `size` bytes of nothing."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    data[386:398] = data[398:410] = b"%011o\0" % 0  # one part: nothing, at nothing
    data[483:495] = b"\x80" + size.to_bytes(11, "big")  # its real size
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at: Any = data
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value

    return change


_NONE = "this is no exported checkpoint"
_CUT = f"{_NONE}, or it is cut short: "
_LATE = "the exported checkpoint is incomplete: n.ram is missing"
CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", _CUT),
    "no tar": (b"x" * 4096, _CUT),
    "another first member": (tar(("../manifest.json", b"0", b"{}")), f"{_NONE}: it does not begin"),
    "a link first": (tar(("manifest.json", b"2", b"")), f"{_NONE}: it does not begin"),
    "a sparse manifest": (sparse("manifest.json", 1 << 60), f"{_NONE}: it does not begin"),
    "a manifest of 8 GiB": (claiming("manifest.json", b"0", 8 << 30), f"{_NONE}: its manifest is"),
    "a header of 8 GiB": (claiming("x", b"x", 8 << 30), f"{_CUT}a header in it claims 858993"),
    "a long name of 8 GiB": (claiming("x", b"L", 8 << 30), f"{_CUT}a header in it claims 858993"),
    "3,000 headers": (checkpoint(more=extended(3000)), f"{_CUT}its headers make no sense"),
    "a header of nonsense": (checkpoint(more=extended(1, b"22 GNU.sparse.major=1\n22 GNU.s"
                                                     b"parse.minor=0\n24 GNU.sparse.name=abcd\n")),
                             f"{_CUT}its headers make no sense"),
    "deep JSON": (checkpoint(first=b"[" * 1_000_000), "this is no manifest of a checkpoint: "),
    "no JSON": (checkpoint(first=b"{"), "this is no manifest of a checkpoint: "),
    "a link": (tar(("manifest.json", b"0", manifest()), ("n.ram", b"2", b"")), _LATE),
    "a hard link": (tar(("manifest.json", b"0", manifest()), ("n.ram", b"1", b"")), _LATE),
    "a device": (tar(("manifest.json", b"0", manifest()), ("n.ram", b"3", b"")), _LATE),
    "another order": (tar(("manifest.json", b"0", manifest()), ("n.state", b"0", STATE)), _LATE),
    "sparse memory": (tar(("manifest.json", b"0", manifest()))[:-1024] + sparse("n.ram", 1 << 60),
                      _LATE),
    "a run of 2^63": (checkpoint(ram=RUN.pack(0, 1 << 63)), f"{_CUT}a run lies beyond every file"),
    "a run at 2^63": (checkpoint(ram=RUN.pack(1 << 63, 1)), f"{_CUT}a run lies beyond every file"),
    "2^60 bytes of memory": (checkpoint(ram=RUN.pack(1 << 60, 0)), f"{_CUT}a file has more bytes"),
    "a run cut off": (checkpoint(ram=RUN.pack(0, 4096) + b"x"), f"{_CUT}a run ends too early"),
    "a node called ../n": (
        checkpoint(first=manifest(_set("nodes", 0, "name", value="../n"))),
        "node name '../n' is not valid: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter",
    ),
    "a machine with options": (
        checkpoint(first=manifest(_set("nodes", 0, "machine_type", value="pc,kernel=/etc/shadow"))),
        "the exported checkpoint names a device 'pc,kernel=/etc/shadow'",
    ),
    "a file in a folder": (
        checkpoint(first=manifest(_set("nodes", 0, "files", value=[["../x.fd", digest(b"")]]))),
        "the exported checkpoint names a file '../x.fd'",
    ),
    "a digest that is a path": (
        checkpoint(first=manifest(_set("nodes", 0, "state", value="sha256:../../etc/shadow"))),
        "the exported checkpoint has a digest 'sha256:../../etc/shadow'",
    ),
    "another content": (
        tar(("manifest.json", b"0", manifest()), ("n.ram", b"0", runs(size=4096)),
            ("n.state", b"0", b"other")),
        "the exported checkpoint is damaged: n.ram is not what was saved",
    ),
}  # fmt: skip


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
async def test_a_hostile_checkpoint_is_told_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    data, says = CHECKPOINTS[name]
    store = CheckpointStore(tmp_path, "ram", LocalStorage(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        await store.receive("key", "c", once(data))
    assert caught.value.message.startswith(says)
    assert "\n" not in caught.value.message
    await store.discard("key")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10  # KiB


@pytest.mark.parametrize(
    "content",
    [external_data("/etc/shadow"), qcow2(crypt=1), qcow2(incompatible=1 << 40), bytes(65536)],
    ids=["data file", "encrypted", "unknown features", "no qcow2"],
)
async def test_a_hostile_disk_of_a_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    name, empty = sparse_digest(tmp_path, content), sparse_digest(tmp_path, bytes(4096))
    stream = tar(
        ("manifest.json", b"0", archive.manifest(record(ram=empty, layer=name))),
        ("n.ram", b"0", runs(size=4096)),
        ("n.state", b"0", STATE),
        (f"layer-{name[7:]}", b"0", runs((0, content), size=len(content))),
    )
    with pytest.raises(InputError, match=r"is not a plain qcow2 disk|is no qcow2 disk"):
        await CheckpointStore(tmp_path, "ram", LocalStorage(tmp_path)).receive(
            "key", "c", once(stream)
        )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=24)), max_size=4))
async def test_a_checkpoint_with_bytes_turned_over_is_told(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(checkpoint(more=extended(2)))
    for place, some in changes:
        at = place % len(data)
        data[at : at + len(some)] = some
    store = CheckpointStore(tmp_path_factory.mktemp("c"), "ram", LocalStorage(Path("/nowhere")))
    with pytest.raises(InputError):  # at the least because its memory has another digest
        await store.receive("key", "c", once(bytes(data)))


GUEST: dict[str, tuple[bytes, str]] = {
    "a header of 8 GiB": (
        claiming("x", b"x", 8 << 30),
        "damaged: a header in it claims 8589934592",
    ),
    "a long link of 8 GiB": (
        claiming("x", b"K", 8 << 30),
        "damaged: a header in it claims 85899345",
    ),
    "3,000 headers": (extended(3000) + tar(("d", b"5", b"")), "damaged: its headers make no sense"),
    "a file that never comes": (claiming("d/x", b"0", 1 << 40), "damaged: "),
    "a name with ..": (tar(("d/../../x", b"0", b"x")), "with the name 'd/../../x' in it: refused"),
    "an absolute name": (tar(("/etc/x", b"0", b"x")), "with the name '/etc/x' in it: refused"),
    "another folder": (tar(("e/x", b"0", b"x")), "with the name 'e/x' in it: refused"),
}


@pytest.mark.parametrize("name", sorted(GUEST))
def test_a_hostile_archive_of_a_guest_is_told_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    data, says = GUEST[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GuestFailed) as caught:
        unpack(io.BytesIO(data), "d", str(tmp_path / "d"))
    assert caught.value.message.startswith("the guest sent an archive ")
    assert says in caught.value.message
    assert list(tmp_path.iterdir()) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10  # KiB


def test_what_is_no_file_or_folder_is_left_out(tmp_path: Path) -> None:
    kinds = {"hard": b"1", "link": b"2", "char": b"3", "block": b"4", "pipe": b"6", "odd": b"7"}
    data = b"".join(tar((f"d/{name}", kind, b""))[:-1024] for name, kind in kinds.items())
    data += sparse("d/zeros", 1 << 60) + tar(("d/good", b"0", b"x"))
    left = unpack(io.BytesIO(data), "d", str(tmp_path / "d"))
    assert sorted(left) == ["d/block", "d/char", "d/hard", "d/link", "d/pipe", "d/zeros"]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["good", "odd"]
