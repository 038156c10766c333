"""The checkpoints of a `FakeEngine`: kept by name, forked by word only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from labd.features.checkpoints.views import CheckpointView
from labd.features.facade import LabView
from labd.model.checkpoints import CheckpointRecord, SaveMode
from labd.model.errors import Conflict, InputError, NotFound, StorageFailed
from labd.model.lab_leases import LeaseAsk
from labd.model.records import OperationKind, OperationRecord
from labd.model.specs import LabSpec

Begin = Callable[[OperationKind, str], Awaitable[OperationRecord]]


class FakeCheckpointsApi:
    """Implements `facade_checkpoints.CheckpointsApi`."""

    def __init__(self, lab: Callable[[str], Awaitable[LabView]], begin: Begin) -> None:
        self._lab = lab
        self._begin = begin
        self.records: dict[str, CheckpointRecord] = {}
        self.restored: list[tuple[str, str, tuple[str, ...]]] = []
        self.forked: list[tuple[str, Mapping[str, str]]] = []
        self.used: dict[str, tuple[str, ...]] = {}  # labs of a checkpoint; for tests to fill
        self.torn: set[str] = set()  # whose export breaks off; for tests to fill

    async def save(self, lab: str, name: str, *, mode: SaveMode, message: str) -> OperationRecord:
        view = await self._lab(lab)
        if name in self.records:
            raise Conflict(f"there is a checkpoint {name} already")
        self.records[name] = CheckpointRecord(
            name=name,
            key="abcdef",
            lab=lab,
            spec=view.lab.spec,
            nodes=(),
            qemu="7.2.22",
            message=message,
            created="2026-01-01T00:00:00.000000Z",
            pause=0.021,
            size=1 << 20,
        )
        return await self._begin(OperationKind.CHECKPOINT, lab)

    async def all(self) -> Sequence[CheckpointView]:
        return [await self.get(name) for name in sorted(self.records)]

    async def get(self, name: str) -> CheckpointView:
        if name not in self.records:
            raise NotFound(f"there is no checkpoint {name}")
        return CheckpointView(record=self.records[name], labs=self.used.get(name, ()), loaded=0)

    async def export(self, name: str) -> AsyncIterator[bytes]:
        await self.get(name)
        yield b"exported " + name.encode()
        if name in self.torn:
            raise StorageFailed(f"{name} cannot be read to its end")

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> CheckpointView:
        data = b"".join([chunk async for chunk in chunks])
        if not data.startswith(b"exported "):
            raise InputError("this is no exported checkpoint")
        self.records[name] = replace(self.records[data.decode().split()[1]], name=name)
        return await self.get(name)

    async def remove(self, name: str) -> None:
        await self.get(name)
        del self.records[name]

    async def fork(
        self,
        checkpoint: str,
        name: str,
        *,
        count: int,
        settings: Mapping[str, str],
        spec: LabSpec | None = None,
        lease: LeaseAsk | None = None,
    ) -> Sequence[OperationRecord]:
        await self.get(checkpoint)
        names = [f"{name}-{index}" for index in range(1, count + 1)] or [name]
        self.forked += [(each, settings) for each in names]
        return [await self._begin(OperationKind.FORK, each) for each in names]

    async def restore(
        self, lab: str, checkpoint: str = "", nodes: Sequence[str] = ()
    ) -> OperationRecord:
        await self._lab(lab)
        if checkpoint:
            await self.get(checkpoint)
        self.restored.append((lab, checkpoint, tuple(nodes)))
        return await self._begin(OperationKind.RESTORE, lab)

    async def chapter(self, lab: str, *, again: bool) -> OperationRecord:
        await self._lab(lab)
        self.restored.append((lab, "again" if again else "next", ()))
        return await self._begin(OperationKind.RESTORE, lab)
