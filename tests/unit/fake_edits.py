"""The edits of a `FakeEngine`: each succeeds at once, and is remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from labd.features.labs.edit_views import DiskView, NewNode
from labd.model.names import NodeRef, check_name
from labd.model.records import OperationRecord
from labd.model.specs import DiskBus


class FakeEdits:
    """Implements `EditsApi`; `find` raises for what is not there, `begin` starts an operation."""

    def __init__(
        self,
        find_lab: Callable[[str], Awaitable[object]],
        find: Callable[[NodeRef], Awaitable[object]],
        begin: Callable[[str], Awaitable[OperationRecord]],
    ) -> None:
        self._find_lab, self._find, self._begin = find_lab, find, begin
        self.asked: list[tuple[object, ...]] = []

    async def disks(self, ref: NodeRef) -> Sequence[DiskView]:
        await self._find(ref)
        return [
            DiskView(name="data", kind="disk", bus="virtio", size=1 << 30, image="", attached=True)
        ]

    async def _asked(self, ref: NodeRef, *what: object) -> OperationRecord:
        await self._find(ref)
        self.asked.append((str(ref), *what))
        return await self._begin(ref.lab)

    async def attach_disk(
        self, ref: NodeRef, name: str, size: int, bus: DiskBus | None
    ) -> OperationRecord:
        return await self._asked(ref, "attach", name, size, bus)

    async def detach_disk(self, ref: NodeRef, name: str) -> OperationRecord:
        return await self._asked(ref, "detach", name)

    async def set_cdrom(self, ref: NodeRef, image: str) -> OperationRecord:
        return await self._asked(ref, "cdrom", image)

    async def add_node(self, lab: str, new: NewNode) -> OperationRecord:
        await self._find_lab(lab)
        check_name(new.name, "node")
        self.asked.append((lab, new))
        return await self._begin(lab)

    async def remove_node(self, ref: NodeRef) -> OperationRecord:
        return await self._asked(ref, "rm")
