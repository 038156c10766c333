"""Classes: what people ask for becomes intent in the inventory; `work.py` brings it about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labd.core.adapters import Adapters, new_key
from labd.core.operations import Operations
from labd.features.checkpoints import CheckpointService, check_settings
from labd.features.classes import plan as classes
from labd.features.classes.preparation import ClassPreparation
from labd.features.classes.views import ClassView
from labd.features.classes.work import ClassWork
from labd.features.labs import Labs
from labd.features.leases import Leasing
from labd.inventory.port import Transaction
from labd.model.checkpoints import MAX_COUNT
from labd.model.classes import ClassRecord, Student
from labd.model.errors import Conflict, InputError
from labd.model.events import EventDraft, EventType
from labd.model.lab_leases import LeaseAsk
from labd.model.names import check_name
from labd.model.people import owner_now
from labd.model.records import Wanted
from labd.model.specs import LabSpec


class ClassController:
    """Keeps a lab for everybody on a class's roster."""

    def __init__(
        self,
        adapters: Adapters,
        operations: Operations,
        labs: Labs,
        checkpoints: CheckpointService,
        leasing: Leasing,
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._labs = labs
        self._checkpoints = checkpoints
        self._leasing = leasing
        self._first = ClassPreparation(adapters, operations, labs, checkpoints)
        self._work = ClassWork(adapters, operations, labs, checkpoints, self._first)

    # asking

    async def all(self) -> Sequence[ClassView]:
        """Return all classes by name."""
        return [await self._view(record) for record in await self._adapters.inventory.classes()]

    async def get(self, name: str) -> ClassView:
        """Return one class."""
        return await self._view(await self._record(name))

    async def _record(self, name: str) -> ClassRecord:
        return classes.named(await self._adapters.inventory.classes(), name)

    async def _view(self, record: ClassRecord) -> ClassView:
        labs = {lab.name: lab for lab in await self._adapters.inventory.labs()}
        states = {item.name: classes.state_of(record, item.name, labs) for item in record.students}
        return ClassView(record=record, states=states)

    # changing

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
        """Fork a lab for each student, or for those who have none when the class is there already.

        Args:
            name: Of the class.
            source: Name of a checkpoint; or what a first copy is made of, which is booted and saved
                as a checkpoint of the class's name, and destroyed.
            students: At least one.
            settings: Of all students.
            lease: Of each lab.
            queue: Let students wait for whom there is no room at present.

        Raises:
            Conflict: A lab has the name of a student's, or the class has another source.
            InputError: A name or setting is not valid, or comes twice.
            NoRoom: The host cannot hold them, and `queue` is not asked; nothing was begun.
        """
        _check(name, students, settings)
        if lease is not None:
            self._leasing.check(lease)
        if isinstance(source, str):
            saved = await self._checkpoints.usable(source)
            fresh = ClassRecord(
                name=name, checkpoint=saved.key, source=saved.name, students=tuple(students)
            )
        else:
            await self._labs.check(name, source)
            fresh = ClassRecord(
                name=name,
                checkpoint=new_key(),
                source=name,
                students=tuple(students),
                spec=source,
                first=new_key(),
            )
        fresh = replace(fresh, settings=settings, lease=lease, queue=queue)
        needs = await self._work.needs(fresh.checkpoint)
        async with self._adapters.inventory.transaction() as tx:
            old = {record.name: record for record in await self._adapters.inventory.classes()}
            return await self._join(tx, old.get(name), fresh, needs)

    async def add(self, name: str, students: Sequence[Student]) -> ClassView:
        """Let more students take part; they get what the others got. Raises as `start`."""
        _check(name, students, {})
        needs = await self._work.needs()
        async with self._adapters.inventory.transaction() as tx:
            old = await self._record(name)
            return await self._join(tx, old, replace(old, students=tuple(students)), needs)

    async def _join(
        self,
        tx: Transaction,
        old: ClassRecord | None,
        fresh: ClassRecord,
        needs: Mapping[str, int],
    ) -> ClassView:
        record = await self._without_gone(_joined(old, fresh))
        if old is not None and old.wanted is Wanted.STOPPED:
            record = replace(record, again=tuple(record.made))
        if old is None:
            record = replace(record, created=self._adapters.clock(), owner=owner_now())
            if record.spec is not None:
                await self._first.require_names(record)
        await self._require_free(record, needs)
        await tx.put_class(record)
        data = {"checkpoint": record.source, "students": len(record.students)}
        await tx.emit(EventDraft(type=EventType.CLASS_STARTED, subject=record.name, data=data))
        return await self._view(record)

    async def _without_gone(self, record: ClassRecord) -> ClassRecord:
        """Return a class that serves those again whose labs failed or are no more."""
        labs = {lab.name: lab for lab in await self._adapters.inventory.labs()}
        made = {
            item: key
            for item, key in record.made.items()
            if classes.own_lab(record, item, labs) is not None
        }
        return replace(record, made=made, failed={}, told=False)

    async def _require_free(self, record: ClassRecord, needs: Mapping[str, int]) -> None:
        due = classes.due(record)
        for student in due:
            lab = record.lab_of(student)
            self._operations.require_free(lab)
            if await self._adapters.inventory.lab(lab) is not None:
                raise Conflict(
                    f"there is a lab {lab} already, which is not of class {record.name}; choose "
                    "another name for the class, or destroy the lab"
                )
        if record.queue:
            return
        each = await self._work.each(record, needs)
        room = await self._labs.room() - await self._work.expected(record.name, needs)
        classes.require_room(record.name, len(due), each, room)
        stopped = await self._work.stopped(record)
        classes.require_room(
            record.name, len(stopped), max(stopped, default=0), room - len(due) * each
        )

    async def extend(self, name: str, seconds: float) -> ClassView:
        """Let the leases of all its labs last longer, all or none.

        Raises:
            Conflict: None of its labs has a lease.
            InputError: They would not be longer, or too long.
        """
        async with self._adapters.inventory.transaction() as tx:
            record = await self._record(name)
            labs = {lab.name: lab for lab in await self._adapters.inventory.labs()}
            leased = [
                lab.name
                for lab in (classes.own_lab(record, item.name, labs) for item in record.students)
                if lab is not None
                and await self._adapters.inventory.lab_lease(lab.name) is not None
            ]
            if not leased:
                raise Conflict(f"no lab of class {name} has a lease that could be extended")
            for lab_name in leased:
                await self._leasing.write_longer(tx, lab_name, seconds)
        return await self._view(record)

    async def stop(self, name: str) -> ClassView:
        """Stop all its labs and keep their disks."""
        return await self._want(name, Wanted.STOPPED, EventType.CLASS_STOPPED)

    async def destroy(self, name: str) -> ClassView:
        """Remove all its labs, and then the class."""
        return await self._want(name, Wanted.DESTROYED, EventType.CLASS_DESTROYING)

    async def _want(self, name: str, wanted: Wanted, event: EventType) -> ClassView:
        async with self._adapters.inventory.transaction() as tx:
            record = await self._record(name)
            if record.wanted is Wanted.DESTROYED and wanted is not Wanted.DESTROYED:
                raise Conflict(f"class {name} is being destroyed")
            if record.wanted is not wanted:
                record = replace(record, wanted=wanted, told=False, again=())
                await tx.put_class(record)
                await tx.emit(EventDraft(type=event, subject=name))
        return await self._view(record)

    # what is due

    async def run(self) -> None:
        """Bring classes to what they shall be, for ever."""
        await self._work.run()

    async def tick(self) -> None:
        """Begin once what is due; see `ClassWork`."""
        await self._work.tick()

    async def close(self) -> None:
        """Stop working; see `ClassWork`."""
        await self._work.close()


def _check(name: str, students: Sequence[Student], settings: Mapping[str, str]) -> None:
    """Raise InputError unless names and settings are valid.

    Raises:
        InputError: One is not, or a student comes twice.
    """
    check_name(name, "class")
    if not 1 <= len(students) <= MAX_COUNT:
        raise InputError(f"a class has 1 to {MAX_COUNT} students, not {len(students)}")
    check_settings(settings)
    seen: set[str] = set()
    for item in students:
        check_name(item.name, "student")
        check_name(f"{name}-{item.name}", "lab")
        check_settings(item.settings)
        if item.name in seen:
            raise InputError(f"student {item.name} is on the roster twice; give each another name")
        seen.add(item.name)


def _joined(old: ClassRecord | None, fresh: ClassRecord) -> ClassRecord:
    """Return a new class, or an old one with those students too whom it did not have.

    Raises:
        Conflict: The old one has another source, or is going.
    """
    if old is None:
        return fresh
    name = fresh.name
    if old.wanted is Wanted.DESTROYED:
        raise Conflict(f"class {name} is being destroyed; wait until it is gone")
    if old.wanted is Wanted.STOPPED and fresh.wanted is not Wanted.RUNNING:
        raise Conflict(
            f"class {name} is stopped; start it again with `lab class start`, and with the new "
            "students on its roster"
        )
    same_template = old.spec is not None and old.spec == fresh.spec
    if old.checkpoint != fresh.checkpoint and not same_template:
        source = (
            "another template, or with other parameters"
            if old.spec is not None
            else f"checkpoint {old.source}"
        )
        raise Conflict(
            f"class {name} was started from {source}; destroy it first, or choose another name"
        )
    known = {item.name: item for item in (*old.students, *fresh.students)}
    if len(known) > MAX_COUNT:
        raise InputError(f"a class has 1 to {MAX_COUNT} students, not {len(known)}")
    return replace(
        old,
        students=tuple(known.values()),
        wanted=Wanted.RUNNING,
        settings=fresh.settings,
        lease=fresh.lease,
        queue=fresh.queue,
    )
