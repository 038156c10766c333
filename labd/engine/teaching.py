"""Classes: intent in the inventory, brought about by ordinary forks, a few at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace

from labd.engine import classes
from labd.engine.access import put_token
from labd.engine.checkpoints import CheckpointService, check_settings
from labd.engine.classes import ClassAct
from labd.engine.facade_classes import ClassView
from labd.engine.first_copy import FirstCopy
from labd.engine.labs import Labs
from labd.engine.leasing import Leasing
from labd.engine.operations import Operations
from labd.engine.ports import Transaction
from labd.engine.tokens import class_token
from labd.engine.world import World, new_key
from labd.model.checkpoints import MAX_COUNT
from labd.model.classes import ClassRecord, Student
from labd.model.errors import Conflict, InputError, LabdError, NoRoom
from labd.model.events import EventType, Happening
from labd.model.lab_leases import LeaseAsk
from labd.model.names import check_name
from labd.model.people import asking, on_behalf, owner_now
from labd.model.records import OperationKind, OperationRecord, Wanted
from labd.model.specs import LabSpec
from labd.model.states import LabState, OperationState

log = logging.getLogger(__name__)

_TICK = 0.5  # seconds
_AT_ONCE = 4  # labs of all classes that are forked, stopped or destroyed at one time
_AGAIN = 5.0  # seconds until what could not be begun is tried again
_GRACE = 20.0  # seconds that a guest has to power off


class Teaching:
    """Implements `facade_classes.ClassesApi`, and does what is due."""

    def __init__(
        self,
        world: World,
        operations: Operations,
        labs: Labs,
        checkpoints: CheckpointService,
        leasing: Leasing,
    ) -> None:
        self._world = world
        self._operations = operations
        self._labs = labs
        self._checkpoints = checkpoints
        self._leasing = leasing
        self._first = FirstCopy(world, operations, labs, checkpoints)
        self._working: dict[str, asyncio.Task[None]] = {}

    # asking

    async def all(self) -> Sequence[ClassView]:
        """Return all classes by name."""
        return [await self._view(record) for record in await self._world.inventory.classes()]

    async def get(self, name: str) -> ClassView:
        """Return one class."""
        return await self._view(await self._record(name))

    async def _record(self, name: str) -> ClassRecord:
        return classes.named(await self._world.inventory.classes(), name)

    async def _view(self, record: ClassRecord) -> ClassView:
        labs = {lab.name: lab for lab in await self._world.inventory.labs()}
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
        """Start a class; see the facade."""
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
        needs = await self._needs(fresh.checkpoint)
        async with self._world.inventory.transaction() as tx:
            old = {record.name: record for record in await self._world.inventory.classes()}
            return await self._join(tx, old.get(name), fresh, needs)

    async def add(self, name: str, students: Sequence[Student]) -> ClassView:
        """Let more students take part; see the facade."""
        _check(name, students, {})
        needs = await self._needs()
        async with self._world.inventory.transaction() as tx:
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
            record = replace(record, created=self._world.clock(), owner=owner_now())
            if record.spec is not None:
                await self._first.require_names(record)
        await self._require_free(record, needs)
        await tx.put_class(record)
        data = {"checkpoint": record.source, "students": len(record.students)}
        await tx.emit(Happening(type=EventType.CLASS_STARTED, subject=record.name, data=data))
        return await self._view(record)

    async def _without_gone(self, record: ClassRecord) -> ClassRecord:
        """Return a class that serves those again whose labs failed or are no more."""
        labs = {lab.name: lab for lab in await self._world.inventory.labs()}
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
            if await self._world.inventory.lab(lab) is not None:
                raise Conflict(
                    f"there is a lab {lab} already, which is not of class {record.name}; choose "
                    "another name for the class, or destroy the lab"
                )
        if record.queue:
            return
        each = await self._each(record, needs)
        room = await self._labs.room() - await self._expected(record.name, needs)
        classes.require_room(record.name, len(due), each, room)
        stopped = await self._stopped(record)
        classes.require_room(
            record.name, len(stopped), max(stopped, default=0), room - len(due) * each
        )

    async def _needs(self, *more: str) -> Mapping[str, int]:
        """Measure what one more lab from each checkpoint of a class, or of `more`, may need.

        Returns:
            Key of the checkpoint -> bytes of memory.
        """
        keys = {record.checkpoint for record in await self._world.inventory.classes()} | {*more}
        saved = await self._world.inventory.checkpoints()
        return {item.key: await self._checkpoints.need(item) for item in saved if item.key in keys}

    async def _expected(self, name: str, needs: Mapping[str, int]) -> int:
        """Return the bytes of memory that the labs of other classes need which are still to come.

        As a sum of what is due: a class was told that it fits before its first lab was forked.
        """
        others = [
            record
            for record in await self._world.inventory.classes()
            if record.name != name and record.wanted is Wanted.RUNNING and not record.queue
        ]
        return sum(
            [len(classes.due(record)) * await self._each(record, needs) for record in others]
        )

    async def _stopped(self, record: ClassRecord) -> list[int]:
        """Return the bytes of memory of each lab that is to be started again."""
        overhead = self._world.limits.node_overhead
        found = []
        for student in record.again:
            lab = await self._world.inventory.lab(record.lab_of(student))
            if lab is not None and lab.state is LabState.STOPPED:
                sized = await self._labs.size(lab.spec)
                found.append(sum(node.memory + overhead for node in sized.values()))
        return found

    async def _each(self, record: ClassRecord, needs: Mapping[str, int]) -> int:
        """Return the bytes of memory that one more lab of a class may need, measured if it was."""
        for saved in await self._world.inventory.checkpoints():
            if saved.key == record.checkpoint:
                return needs.get(saved.key) or self._checkpoints.estimate(saved)
        if record.spec is None:
            return 0  # somebody has removed it: nothing more is forked
        sized = await self._labs.size(record.spec)
        overhead = self._world.limits.node_overhead
        return sum(node.memory // 2 + overhead for node in sized.values())

    async def extend(self, name: str, seconds: float) -> ClassView:
        """Let the leases of a class last longer; see the facade."""
        async with self._world.inventory.transaction() as tx:
            record = await self._record(name)
            labs = {lab.name: lab for lab in await self._world.inventory.labs()}
            leased = [
                lab.name
                for lab in (classes.own_lab(record, item.name, labs) for item in record.students)
                if lab is not None and await self._world.inventory.lab_lease(lab.name) is not None
            ]
            if not leased:
                raise Conflict(f"no lab of class {name} has a lease that could be extended")
            for lab_name in leased:
                await self._leasing.write_longer(tx, lab_name, seconds)
        return await self._view(record)

    async def stop(self, name: str) -> ClassView:
        """Stop all labs of a class; see the facade."""
        return await self._want(name, Wanted.STOPPED, EventType.CLASS_STOPPED)

    async def destroy(self, name: str) -> ClassView:
        """Remove a class; see the facade."""
        return await self._want(name, Wanted.DESTROYED, EventType.CLASS_DESTROYING)

    async def _want(self, name: str, wanted: Wanted, event: EventType) -> ClassView:
        async with self._world.inventory.transaction() as tx:
            record = await self._record(name)
            if record.wanted is Wanted.DESTROYED and wanted is not Wanted.DESTROYED:
                raise Conflict(f"class {name} is being destroyed")
            if record.wanted is not wanted:
                record = replace(record, wanted=wanted, told=False, again=())
                await tx.put_class(record)
                await tx.emit(Happening(type=event, subject=name))
        return await self._view(record)

    # what is due

    async def run(self) -> None:
        """Bring classes to what they shall be, for ever."""
        while True:
            try:
                await self.tick()
            except LabdError as error:
                log.warning("classes cannot be looked at: %s", error)
            await asyncio.sleep(_TICK)

    async def tick(self) -> None:
        """Begin once what is due for each class, as far as there are hands."""
        for record in await self._world.inventory.classes():
            plan = await self._plan(record)
            if plan.first is not None:
                self._begin(record, record.name, self._serve_first(record, plan.first))
            for student, act in plan.steps:
                self._begin(record, record.lab_of(student), self._serve(record, student, act))
            if plan.gone or (plan.ready and not record.told):
                await self._conclude(record.name)

    async def _plan(self, record: ClassRecord) -> classes.ClassPlan:
        labs = {lab.name: lab for lab in await self._world.inventory.labs()}
        busy = {operation.lab for operation in self._operations.running()}
        return classes.plan(record, labs, saved=await self._first.saved(record), busy=busy)

    def _begin(self, record: ClassRecord, lab: str, work: Coroutine[object, object, None]) -> None:
        """Work on a lab, unless somebody does already or there are no hands left.

        What is made belongs to the owner of the class.
        """
        if lab in self._working or len(self._working) >= _AT_ONCE:
            work.close()
            return
        with asking(on_behalf(record.owner)):
            task = asyncio.create_task(work, name=lab)
        self._working[lab] = task
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working.pop(task.get_name(), None)

    async def _conclude(self, name: str) -> None:
        """Write that a class is ready or gone, planned anew where nothing else can move."""
        async with self._world.inventory.transaction() as tx:
            record = await self._record(name)
            plan = await self._plan(record)
            if plan.gone:
                await tx.delete_class(name)
                await tx.emit(Happening(type=EventType.CLASS_DESTROYED, subject=name))
            elif plan.ready and not record.told:
                await tx.put_class(replace(record, told=True, again=()))
                if record.wanted is Wanted.STOPPED:
                    return
                up = len(record.students) - len(record.failed)
                data = {"labs": up, "failed": sorted(record.failed)}
                await tx.emit(Happening(type=EventType.CLASS_READY, subject=name, data=data))

    async def _serve_first(self, record: ClassRecord, act: classes.FirstAct) -> None:
        """Do one thing for the first copy; without it nobody has a lab."""
        try:
            await self._first.do(record, act)
        except LabdError as error:
            log.warning("class %s: %s of its first copy failed: %s", record.name, act, error)
            if act in {classes.FirstAct.UP, classes.FirstAct.SAVE}:
                for item in record.students:
                    await self._write_failed(record.name, item.name, error.message)
            else:
                await asyncio.sleep(_AGAIN)

    async def _serve(self, record: ClassRecord, student: str, act: ClassAct) -> None:
        """Do one thing for one student; what goes wrong is told, and harms no other."""
        lab = record.lab_of(student)
        try:
            if act is ClassAct.FORK:
                await self._fork(record, student)
                return
            kind = OperationKind(str(act))
            operation = await self._labs.act(kind, lab, (), force=False, grace=_GRACE)
            done = await self._operations.wait(operation.id, 300.0)
            if act is ClassAct.START:
                await self._write_started(record.name, student, done)
        except LabdError as error:
            if isinstance(error, NoRoom) and record.queue:
                await asyncio.sleep(_AGAIN)
                return
            log.warning("lab %s of class %s: %s failed: %s", lab, record.name, act, error)
            if act in {ClassAct.FORK, ClassAct.START}:
                await self._write_failed(record.name, student, error.message)
            else:
                await asyncio.sleep(_AGAIN)

    async def _fork(self, record: ClassRecord, student: str) -> None:
        lab = record.lab_of(student)
        own = next(item.settings for item in record.students if item.name == student)

        async def more(tx: Transaction) -> None:
            """Write whose the lab is, together with the lab."""
            present = await self._record(record.name)
            made = await self._world.inventory.lab(lab)
            if made is None or made.origin != record.checkpoint:
                raise Conflict(f"checkpoint {record.source} is another one by now")
            if present.wanted is not Wanted.RUNNING:
                raise Conflict(f"class {record.name} shall not run any more")
            await tx.put_class(replace(present, made={**present.made, student: made.key}))
            token = class_token(
                self._world.token_secret, record.name, student, made, created=self._world.clock()
            )
            await put_token(tx, token)

        (operation,) = await self._checkpoints.fork(
            record.source,
            lab,
            count=0,
            settings={"student": student, **record.settings, **own},
            lease=record.lease,
            more=more,
        )
        done = await self._operations.wait(operation.id, 600.0)
        if done.state is OperationState.FAILED:
            await self._write_failed(record.name, student, _why(done))

    async def _write_started(self, name: str, student: str, done: OperationRecord) -> None:
        """Write that a lab was started again: once, for who stops it afterwards means it."""
        if done.state is OperationState.FAILED:
            await self._write_failed(name, student, _why(done))
            return
        async with self._world.inventory.transaction() as tx:
            record = await self._record(name)
            await tx.put_class(replace(record, again=_without(record.again, student)))

    async def _write_failed(self, name: str, student: str, message: str) -> None:
        async with self._world.inventory.transaction() as tx:
            found = {record.name: record for record in await self._world.inventory.classes()}
            record = found.get(name)
            if record is None or record.wanted is not Wanted.RUNNING:
                return
            again = _without(record.again, student)
            failed = {**record.failed, student: message}
            await tx.put_class(replace(record, failed=failed, again=again))
            data = {"student": student, "reason": message}
            await tx.emit(
                Happening(
                    type=EventType.CLASS_STUDENT_FAILED,
                    lab=record.lab_of(student),
                    subject=name,
                    data=data,
                )
            )

    async def close(self) -> None:
        """Stop working; operations that were begun go on, and the next daemon begins the others."""
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check(name: str, students: Sequence[Student], settings: Mapping[str, str]) -> None:
    """Return when names and settings are valid.

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


def _why(done: OperationRecord) -> str:
    return str((done.error or {}).get("message", "it failed"))


def _without(students: Sequence[str], student: str) -> tuple[str, ...]:
    return tuple(item for item in students if item != student)


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
