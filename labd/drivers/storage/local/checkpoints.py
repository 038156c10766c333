"""The store of checkpoints.

    <state>/checkpoints/<key>/manifest.json           the record, for people and for export
    <state>/checkpoints/<key>/<node>.ram              memory, sparse
    <state>/checkpoints/<key>/<node>.state            QEMU's stream without the memory
    <state>/checkpoints/<key>/<node>.<file>           small files of the machine
    <state>/checkpoints/.layers/<hex>                 frozen qcow2 layers by digest, shared
    <state>/checkpoints/.partial/<key>/               what is being made; swept at the next start

Everything is root's alone and read-only. A layer is a copy that no QEMU has ever had open for
writing: a machine that was broken out of cannot alter what others stand on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from labd.drivers.storage.local import archive, checking, memory
from labd.drivers.storage.local.archive import MANIFEST
from labd.drivers.storage.local.stream import split
from labd.drivers.storage.port import BlockStorage
from labd.host.threads import bulk, bulk_whole, quick
from labd.model.checkpoints import CheckpointRecord, Incoming, SavedNode
from labd.model.disks import DiskRef, digest_of_layer, layer_disk
from labd.model.errors import InputError, LaunchFailed, StorageFailed
from labd.model.units import format_size

_RESERVE = 64 << 20  # bytes that stay free: the inventory must go on writing
_PIECE = 1 << 20  # bytes that are sent at one time
_IDLE = 300.0  # seconds that memory stays loaded when no lab uses it


@dataclass(slots=True)
class _Loaded:
    """Sealed memory of one checkpoint. `fds` is node -> descriptor."""

    fds: dict[str, int] = field(default_factory=dict)
    used: float = 0.0


class CheckpointStore:
    """Implements the port `Checkpoints` of the engine.

    Args:
        state: The root's state folder.
        block: Name of the main memory in QEMU's streams.
        storage: Opens the disks of machines, of whatever class.
    """

    def __init__(self, state: Path, block: str, storage: BlockStorage) -> None:
        self._storage = storage
        self._root = state / "checkpoints"
        self.layers = self._root / ".layers"
        self._partial = self._root / ".partial"
        self._block = block
        self._loaded: dict[str, _Loaded] = {}
        self._verified: set[tuple[object, ...]] = set()
        self._loading = asyncio.Lock()

    # making one

    async def stage(self, key: str) -> Path:
        """Return an empty folder to make a checkpoint in."""
        return await quick(self._stage, key)

    def _stage(self, key: str) -> Path:
        folder = self._partial / key
        try:
            for path in (self._root, self.layers, self._partial):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise StorageFailed(f"cannot make {folder}: {error.strerror}") from error
        return folder

    async def absorb(self, key: str, node: str, stream: Path) -> tuple[str, int, str]:
        """Take QEMU's stream of a node apart, and delete it.

        Returns:
            Digest of the memory, its bytes of data, digest of the state.

        Raises:
            StorageFailed: No room, or it is no such stream.
        """
        return await bulk_whole(self._absorb, key, node, stream)

    def _absorb(self, key: str, node: str, stream: Path) -> tuple[str, int, str]:
        folder = self._partial / key
        try:
            self._require_room(stream.stat().st_size)
            with memory.mapped(stream) as data:
                canvas, rest = self._paint(f"{key}.{node}", data)
            sealed = canvas.seal()
            try:
                with (folder / f"{node}.ram").open("xb") as file:
                    ram, size = memory.copy(sealed, file.fileno())
            except BaseException:
                os.close(sealed)
                raise
            self._keep(key, node, sealed)
            (folder / f"{node}.state").write_bytes(rest)
            stream.unlink()
        except OSError as error:
            raise StorageFailed(f"cannot store the memory of {node}: {error.strerror}") from error
        return ram, size, f"sha256:{hashlib.sha256(rest).hexdigest()}"

    def _paint(self, name: str, data: memoryview) -> tuple[memory.Canvas, bytearray]:
        size = _size_of_block(data, self._block)
        canvas = memory.Canvas(name, size)
        try:
            return canvas, split(data, self._block, canvas.put).rest
        except BaseException:
            canvas.close()
            raise

    def _require_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._root).free
        if free - needed < _RESERVE:
            raise StorageFailed(
                f"no room for the checkpoint: {format_size(needed)} are needed and "
                f"{format_size(free)} are free; remove checkpoints or make room"
            )

    async def add_layer(self, ref: DiskRef) -> str:
        """Copy a qcow2 disk that nobody writes any more into the store; return its digest.

        Raises:
            StorageFailed: No room; nothing stays behind.
        """
        try:
            opened = await self._storage.attach(ref, writable=False)
        except LaunchFailed as error:
            raise StorageFailed(f"cannot store a disk of the lab: {error.message}") from error
        if opened.fd is None:
            raise StorageFailed(
                f"disks of storage class {ref.storage} cannot be copied into a checkpoint here"
            )
        try:
            return await bulk_whole(self._add_layer, opened.fd)
        finally:
            os.close(opened.fd)

    def _add_layer(self, source: int) -> str:
        fresh = self.layers / f".new-{os.urandom(6).hex()}"
        try:
            with fresh.open("xb") as target:
                self._require_room(os.fstat(source).st_blocks * 512)
                digest, _ = memory.copy(source, target.fileno())
                os.fchmod(target.fileno(), 0o400)
                os.fsync(target.fileno())
            fresh.rename(self._layer(digest))
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise StorageFailed(f"cannot store a disk of the lab: {error.strerror}") from error
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        self._verified.add(_stamp(self._layer(digest)))
        return digest

    def _layer(self, digest: str) -> Path:
        return self.layers / digest.removeprefix("sha256:")

    def layer(self, digest: str) -> DiskRef:
        """Return the name of a layer."""
        return layer_disk(digest)

    def digest_of(self, ref: DiskRef) -> str:
        """Return the digest of a disk that `layer` named; empty for any other."""
        return digest_of_layer(ref)

    async def digest(self, key: str, name: str) -> str:
        """Return the digest of a small file that is being made part of a checkpoint."""
        data = await quick((self._partial / key / name).read_bytes)
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def publish(self, record: CheckpointRecord) -> int:
        """Make what was staged durable and visible; return its bytes on disk."""
        return await bulk_whole(self._publish, record)

    def _publish(self, record: CheckpointRecord) -> int:
        key = record.key
        staged = self._partial / key
        try:
            (staged / MANIFEST).write_bytes(archive.manifest(record))
            size = 0
            for path in staged.iterdir():
                path.chmod(0o400)
                size += path.stat().st_blocks * 512
                _sync(path)
            _sync(staged)
            staged.rename(self._root / key)
            _sync(self._root)
        except OSError as error:
            raise StorageFailed(f"cannot store the checkpoint: {error.strerror}") from error
        return size

    # using one

    async def incoming(self, record: CheckpointRecord, node: SavedNode) -> Incoming:
        """Return memory and state of a node; both descriptors are the caller's.

        Raises:
            StorageFailed: A file is missing or is not what it was.
        """
        ram = await self._ram(record, node)
        try:
            state = await bulk(self._open_state, record, node)
        except BaseException:
            os.close(ram)
            raise
        return Incoming(ram=ram, state=state)

    async def _ram(self, record: CheckpointRecord, node: SavedNode) -> int:
        async with self._loading:  # two forks at one time must not load it twice
            loaded = self._loaded.get(record.key)
            if loaded is None or node.name not in loaded.fds:
                path = self._root / record.key / f"{node.name}.ram"
                name = f"{record.key}.{node.name}"
                sealed = await bulk(memory.load, path, name, node.ram)
                self._keep(record.key, node.name, sealed)
            loaded = self._loaded[record.key]
            loaded.used = time.monotonic()
            return os.dup(loaded.fds[node.name])

    def _keep(self, key: str, node: str, fd: int) -> None:
        loaded = self._loaded.setdefault(key, _Loaded(used=time.monotonic()))
        loaded.fds[node] = fd

    def _open_state(self, record: CheckpointRecord, node: SavedNode) -> int:
        path = self._root / record.key / f"{node.name}.state"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise StorageFailed(_damaged(record.name, path, error)) from error
        digest = hashlib.sha256(os.pread(fd, os.fstat(fd).st_size, 0)).hexdigest()
        if f"sha256:{digest}" != node.state:
            os.close(fd)
            raise StorageFailed(
                f"checkpoint {record.name} is damaged: {path.name} is not what was saved; "
                "remove the checkpoint and save it again"
            )
        return fd

    async def verify(self, record: CheckpointRecord) -> None:
        """Raise StorageFailed unless all disk layers of a checkpoint are there and whole.

        Each is read once in the life of the daemon, and again when its file was touched.

        Raises:
            StorageFailed: One is missing, or is not what it was.
        """
        digests = {digest for node in record.nodes for disk in node.disks for digest in disk.layers}
        for digest in sorted(digests):
            await bulk(self._verify, record.name, digest)

    def _verify(self, name: str, digest: str) -> None:
        path = self._layer(digest)
        try:
            if (stamp := _stamp(path)) in self._verified:
                return
            with path.open("rb") as file:
                found = memory.digest(file.fileno())
        except OSError as error:
            raise StorageFailed(
                f"checkpoint {name} cannot be used: its disk layer {digest[:19]} cannot be read "
                f"({error.strerror}); remove the checkpoint and save it again"
            ) from error
        if found != digest:
            raise StorageFailed(
                f"checkpoint {name} cannot be used: its disk layer {digest[:19]} is not what was "
                "saved; remove the checkpoint and save it again"
            )
        self._verified.add(stamp)

    async def copy_file(self, key: str, name: str, target: Path) -> None:
        """Copy a small file out of a checkpoint."""
        try:
            await bulk(shutil.copyfile, self._root / key / name, target)
        except OSError as error:
            raise StorageFailed(f"cannot copy {name}: {error.strerror}") from error

    # other hosts

    async def pack(self, record: CheckpointRecord) -> AsyncIterator[bytes]:
        """Yield a checkpoint as one stream; see the port."""
        stream = archive.pack(record, self._root / record.key, self.layers)
        try:
            while part := await bulk(_joined, stream):
                yield part
        except OSError as error:
            raise StorageFailed(_damaged(record.name, Path(error.filename or ""), error)) from error

    async def receive(self, key: str, name: str, chunks: AsyncIterator[bytes]) -> CheckpointRecord:
        """Take a stream into the staged folder; see the port."""
        folder = await self.stage(key)
        path = self._partial / f"{key}.tar"
        try:
            with await quick(path.open, "xb") as file:
                async for chunk in chunks:
                    await quick(self._require_room, len(chunk))
                    await bulk(file.write, chunk)
            return await bulk_whole(self._admit, key, name, path, folder)
        except OSError as error:
            raise StorageFailed(f"cannot store the checkpoint: {error.strerror}") from error
        finally:
            await quick(path.unlink, missing_ok=True)

    def _admit(self, key: str, name: str, path: Path, folder: Path) -> CheckpointRecord:
        record = replace(archive.unpack(path, folder), key=key, name=name, origin="")
        for node in record.nodes:
            self._require(folder / f"{node.name}.ram", node.ram, sparse=True)
            self._require(folder / f"{node.name}.state", node.state, sparse=False)
            for file, digest in node.files:
                self._require(folder / f"{node.name}.{file}", digest, sparse=False)
        for path_ in sorted(folder.glob("layer-*")):
            digest = f"sha256:{path_.name.removeprefix('layer-')}"
            self._require(path_, digest, sparse=True)
            checking.check_layer(path_)
            path_.chmod(0o400)
            path_.rename(self._layer(digest))
        return record

    def _require(self, path: Path, digest: str, *, sparse: bool) -> None:
        with path.open("rb") as file:
            if sparse:
                found = memory.digest(file.fileno())
            else:
                found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != digest:
            raise InputError(
                f"the exported checkpoint is damaged: {path.name} is not what was saved"
            )

    # letting go

    def trim(self, in_use: Collection[str]) -> None:
        """Let go of memory that was not used for a while by any checkpoint but those `in_use`."""
        old = time.monotonic() - _IDLE
        for key, loaded in list(self._loaded.items()):
            if key not in in_use and loaded.used < old:
                self._unload(key)

    def _unload(self, key: str) -> None:
        loaded = self._loaded.pop(key, None)
        for fd in loaded.fds.values() if loaded is not None else ():
            os.close(fd)

    async def discard(self, key: str) -> None:
        """Remove a checkpoint, or what was made of one (idempotent). Layers stay; see `sweep`."""
        self._unload(key)
        for folder in (self._root / key, self._partial / key):
            await bulk(shutil.rmtree, folder, ignore_errors=True)

    async def sweep(self, keys: Collection[str], layers: Collection[str]) -> Sequence[str]:
        """Remove every checkpoint and layer but these; tell what went."""
        return await bulk(self._sweep, set(keys), set(layers))

    def _sweep(self, keys: set[str], layers: set[str]) -> list[str]:
        gone: list[str] = []
        if not self._root.is_dir():
            return gone
        kept = {self._layer(digest).name for digest in layers}
        for path in [*self._root.iterdir(), *_entries(self._partial)]:
            if path in {self.layers, self._partial} or path.name in keys:
                continue
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path.name)
        for path in _entries(self.layers):
            if path.name not in kept:
                with suppress(OSError):
                    path.unlink()
                    gone.append(f"layer {path.name[:12]}")
        return gone

    def collect(self, layers: Collection[str]) -> None:
        """Remove every layer but these; at once, for nothing may be in the making meanwhile."""
        kept = {self._layer(digest).name for digest in layers}
        for path in _entries(self.layers):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all loaded memory."""
        for key in list(self._loaded):
            self._unload(key)

    def loaded(self) -> Mapping[str, int]:
        """Return checkpoint key -> bytes of memory that are loaded for it."""
        return {
            key: sum(os.fstat(fd).st_blocks * 512 for fd in loaded.fds.values())
            for key, loaded in self._loaded.items()
        }


def _damaged(name: str, path: Path, error: OSError) -> str:
    return (
        f"checkpoint {name} is damaged: {path.name}: {error.strerror}; remove the checkpoint and "
        "save it again"
    )


def _joined(parts: Iterator[bytes]) -> bytes:
    """Return some parts as one, empty at the end: a thread for each small part would be slow."""
    found = bytearray()
    for part in parts:
        found += part
        if len(found) >= _PIECE:
            break
    return bytes(found)


def _size_of_block(data: memoryview, block: str) -> int:
    """Return the size of a memory block, from the list at the begin of a stream."""
    name = bytes([len(block)]) + block.encode()
    # The list comes first, within a page or so.
    at = bytes(data[:8192]).find(name, bytes(data[:64]).find(b"\x03ram") + 4)
    if at < 0:
        raise StorageFailed("what QEMU wrote is no migration stream: was the disk full?")
    size: int = struct.unpack_from(">Q", data, at + len(name))[0]
    return size


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _stamp(path: Path) -> tuple[object, ...]:
    stat = path.stat()
    return (path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
