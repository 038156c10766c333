"""The classes of a `FakeEngine`: kept by name, and ready at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labd.features.classes.views import ClassView
from labd.model.classes import ClassRecord, Student
from labd.model.errors import NotFound
from labd.model.lab_leases import LeaseAsk
from labd.model.records import Wanted
from labd.model.specs import LabSpec


class FakeClasses:
    """Implements `facade_classes.ClassesApi`."""

    def __init__(self) -> None:
        self.kept: dict[str, ClassRecord] = {}
        self.states: dict[str, str] = {}  # of students, else `running`; for tests to fill

    async def start(
        self,
        name: str,
        source: str | LabSpec,
        students: Sequence[Student],
        *,
        settings: Mapping[str, str],
        lease: LeaseAsk | None = None,
        queue: bool = False,
    ) -> ClassView:
        self.kept[name] = ClassRecord(
            name=name,
            checkpoint="abcdef",
            source=source if isinstance(source, str) else name,
            spec=None if isinstance(source, str) else source,
            queue=queue,
            students=tuple(students),
            settings=settings,
            lease=lease,
            failed={item.name: "too slow" for item in students if item.name == "slow"},
            told=True,
        )
        return await self.get(name)

    async def add(self, name: str, students: Sequence[Student]) -> ClassView:
        record = (await self.get(name)).record
        self.kept[name] = replace(record, students=(*record.students, *students))
        return await self.get(name)

    async def all(self) -> Sequence[ClassView]:
        return [await self.get(name) for name in sorted(self.kept)]

    async def get(self, name: str) -> ClassView:
        if name not in self.kept:
            raise NotFound(f"there is no class {name}")
        record = self.kept[name]
        states = {
            item.name: "failed"
            if item.name in record.failed
            else self.states.get(item.name, "running")
            for item in record.students
        }
        return ClassView(record=record, states=states)

    async def extend(self, name: str, seconds: float) -> ClassView:
        return await self.get(name)

    async def stop(self, name: str) -> ClassView:
        self.kept[name] = replace((await self.get(name)).record, wanted=Wanted.STOPPED)
        return await self.get(name)

    async def destroy(self, name: str) -> ClassView:
        view = await self.get(name)
        del self.kept[name]
        return view
