"""The manifest of a checkpoint, and a checkpoint as one stream for another host.

The stream is tar (POSIX.1-2001, pax). Memory is sparse, so it comes as its runs of data, each with
16 bytes before it: offset and length, big-endian.

    manifest.json            the record
    <node>.ram               runs of the memory
    <node>.state, …          as in the store
    layer-<hex>              disk layers, as runs too; the last run has length 0 and tells the size

A stream may come from anywhere: names are checked, sizes are bounded by the manifest and the disk,
and whatever was read is compared with the digests.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from labd.drivers.storage.local import memory
from labd.drivers.storage.local.checking import check_record
from labd.model import tars
from labd.model.checkpoints import CheckpointRecord
from labd.model.errors import InputError

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 << 20  # bytes
_CHUNK = 1 << 20
_LARGEST = 16 << 40  # bytes: ext4's largest file
_RUN = struct.Struct(">QQ")
_ADAPTER: TypeAdapter[CheckpointRecord] = TypeAdapter(CheckpointRecord)


def manifest(record: CheckpointRecord) -> bytes:
    """Return the text of a record."""
    return _ADAPTER.dump_json(record, indent=1) + b"\n"


def read_manifest(data: bytes) -> CheckpointRecord:
    """Return the record of a text that may have come from anywhere.

    Raises:
        InputError: It is none.
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"this is no manifest of a checkpoint: {where}: {first['msg']}") from error


def members(record: CheckpointRecord) -> list[str]:
    """Return the names in the archive behind the manifest, in their order."""
    names = []
    for node in record.nodes:
        names += [f"{node.name}.ram", f"{node.name}.state"]
        names += [f"{node.name}.{name}" for name, _ in node.files]
    layers = {digest for node in record.nodes for disk in node.disks for digest in disk.layers}
    return names + [f"layer-{digest.removeprefix('sha256:')}" for digest in sorted(layers)]


def is_sparse(name: str) -> bool:
    """True if a member comes as runs."""
    return name.endswith(".ram") or name.startswith("layer-")


def pack(record: CheckpointRecord, folder: Path, layers: Path) -> Iterator[bytes]:
    """Yield the stream of a checkpoint. Blocks: use a thread.

    Raises:
        OSError: A file is missing; told before the first byte.
    """
    data = manifest(record)
    paths = {
        name: layers / name.removeprefix("layer-") if name.startswith("layer-") else folder / name
        for name in members(record)
    }
    for path in paths.values():
        path.stat()
    yield _header(MANIFEST, len(data)) + _padded(data)
    for name, path in paths.items():
        with path.open("rb") as file:
            fd = file.fileno()
            size = os.fstat(fd).st_size
            runs = list(memory.extents(fd)) if is_sparse(name) else [(0, size)]
            ends = [(size, 0)] if is_sparse(name) else []
            frame = _RUN.size if is_sparse(name) else 0
            total = sum(frame + length for _, length in [*runs, *ends])
            yield _header(name, total)
            for at, length in runs:
                if frame:
                    yield _RUN.pack(at, length)
                yield from _read(fd, at, length)
            if ends:
                yield _RUN.pack(*ends[0])
            yield bytes(-total % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _read(fd: int, at: int, length: int) -> Iterator[bytes]:
    while length > 0:
        part = os.pread(fd, min(length, _CHUNK), at)
        if not part:
            raise InputError("a file of the checkpoint became shorter while it was read")
        yield part
        at, length = at + len(part), length - len(part)


def unpack(path: Path, folder: Path) -> CheckpointRecord:
    """Write the members of an archive into an empty folder; return its record. Blocks.

    Nothing of it is believed yet: the caller compares digests.

    Raises:
        InputError: It is no such archive.
    """
    try:
        with path.open("rb") as file, tars.reading(file) as tar:
            first = tar.next()
            if first is None or not tars.is_plain(first) or first.name != MANIFEST:
                raise InputError(
                    "this is no exported checkpoint: it does not begin with a manifest"
                )
            if first.size > _MANIFEST_LIMIT:
                raise InputError("this is no exported checkpoint: its manifest is too long")
            record = read_manifest(_content(tar, first).read())
            check_record(record)  # its names are parts of paths from here on
            for name in members(record):
                member = tar.next()
                if member is None or member.name != name or not tars.is_plain(member):
                    raise InputError(f"the exported checkpoint is incomplete: {name} is missing")
                _write(_content(tar, member), folder / name, sparse=is_sparse(name))
    except (tarfile.TarError, EOFError, struct.error) as error:
        raise InputError(f"this is no exported checkpoint, or it is cut short: {error}") from error
    return record


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedIOBase:
    found = tar.extractfile(member)
    if found is None:
        raise InputError("the exported checkpoint has something in it that is no file")
    return found  # type: ignore[return-value]


def _write(source: io.BufferedIOBase, target: Path, *, sparse: bool) -> None:
    with target.open("xb") as file:
        if not sparse:
            while part := source.read(_CHUNK):
                file.write(part)
            return
        while True:
            at, length = _RUN.unpack(source.read(_RUN.size))
            if not length:
                if at > _LARGEST:
                    raise EOFError("a file has more bytes than any")
                file.truncate(at)
                return
            if at + length > _LARGEST:
                raise EOFError("a run lies beyond every file")
            file.seek(at)
            while length > 0:
                part = source.read(min(length, _CHUNK))
                if not part:
                    raise EOFError("a run ends too early")
                file.write(part)
                length -= len(part)
