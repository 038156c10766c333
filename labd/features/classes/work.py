"""Brings classes about, by ordinary forks. Level-triggered: twice a second it looks what is due.

Nothing waits in a slot for what may need that very slot: who finds no room, or fails, gives it
back and is tried again later (`turns.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.features.access import class_token, put_token
from labd.features.checkpoints import CheckpointService
from labd.features.classes import plan as classes
from labd.features.classes.plan import ClassAct, FirstAct
from labd.features.classes.preparation import ClassPreparation
from labd.features.classes.turns import Lane, Step, Turns
from labd.features.labs import Labs
from labd.inventory.port import Transaction
from labd.model.classes import ClassRecord
from labd.model.errors import Conflict, LabdError, NoRoom
from labd.model.events import EventDraft, EventType
from labd.model.people import asking, on_behalf
from labd.model.records import OperationKind, OperationRecord, Wanted
from labd.model.states import LabState, OperationState

log = logging.getLogger(__name__)

_TICK = 0.5  # seconds
_GRACE = 20.0  # seconds that a guest has to power off
_ENDS_WITHIN, _FORKS_WITHIN = 300.0, 600.0  # seconds


class ClassWork:
    """Does what `classes.plan` says is due, of all classes in turns."""

    def __init__(
        self,
        adapters: Adapters,
        operations: Operations,
        labs: Labs,
        checkpoints: CheckpointService,
        first: ClassPreparation,
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._labs = labs
        self._checkpoints = checkpoints
        self._first = first
        most = (
            adapters.memory_total - adapters.limits.memory_reserve if adapters.memory_total else 0
        )
        self._turns = Turns(most)
        self._tasks: set[asyncio.Task[None]] = set()

    # what labs need

    async def needs(self, *more: str) -> Mapping[str, int]:
        """Measure what one more lab from each checkpoint of a class, or of `more`, may need.

        Returns:
            Key of the checkpoint -> bytes of memory.
        """
        keys = {record.checkpoint for record in await self._adapters.inventory.classes()} | {*more}
        saved = await self._adapters.inventory.checkpoints()
        return {item.key: await self._checkpoints.need(item) for item in saved if item.key in keys}

    async def expected(self, name: str, needs: Mapping[str, int]) -> int:
        """Return the bytes of memory that the labs of other classes need which are still to come.

        As a sum of what is due: a class was told that it fits before its first lab was forked.
        Classes that queue were told nothing, and are not counted.
        """
        others = [
            record
            for record in await self._adapters.inventory.classes()
            if record.name != name and record.wanted is Wanted.RUNNING and not record.queue
        ]
        return sum([len(classes.due(record)) * await self.each(record, needs) for record in others])

    async def stopped(self, record: ClassRecord) -> list[int]:
        """Return the bytes of memory of each lab that is to be started again."""
        overhead = self._adapters.limits.node_overhead
        found = []
        for student in record.again:
            lab = await self._adapters.inventory.lab(record.lab_of(student))
            if lab is not None and lab.state is LabState.STOPPED:
                sized = await self._labs.size(lab.spec)
                found.append(sum(node.memory + overhead for node in sized.values()))
        return found

    async def each(self, record: ClassRecord, needs: Mapping[str, int]) -> int:
        """Return the bytes of memory that one more lab of a class may need, measured if it was."""
        for saved in await self._adapters.inventory.checkpoints():
            if saved.key == record.checkpoint:
                return needs.get(saved.key) or self._checkpoints.estimate(saved)
        if record.spec is None:
            return 0  # somebody has removed it: nothing more is forked
        sized = await self._labs.size(record.spec)
        overhead = self._adapters.limits.node_overhead
        return sum(node.memory // 2 + overhead for node in sized.values())

    # what is due

    async def run(self) -> None:
        """Bring classes to what they shall be, for ever.

        Where there is no class, the next is told by an event, as everything that makes one.
        """
        while True:
            last, there = await self._adapters.inventory.last_seq(), True
            try:
                there = bool(await self._adapters.inventory.classes()) or bool(self._tasks)
                await self.tick()
            except LabdError as error:
                log.warning("classes cannot be looked at: %s", error)
            await asyncio.sleep(_TICK)
            if not there:
                await self._adapters.inventory.wait_events(last)

    async def tick(self) -> None:
        """Begin once what is due, as far as there are slots and room."""
        records = await self._adapters.inventory.classes()
        due: list[Step] = []
        for record in records:
            with self._adapters.tasks.contained("classes"):  # the others go on
                plan = await self._plan(record)
                due += self._steps(record, plan)
                if plan.gone or (plan.ready and not record.told):
                    await self._conclude(record.name)
        self._turns.keep(due, {record.name for record in records})
        room = await self._labs.room() if any(step.queued for step in due) else 0
        for step in self._turns.pick(due, asyncio.get_running_loop().time(), room):
            self._begin(step)

    async def _plan(self, record: ClassRecord) -> classes.ClassPlan:
        labs = {lab.name: lab for lab in await self._adapters.inventory.labs()}
        busy = {operation.lab for operation in self._operations.running()}
        return classes.plan(record, labs, saved=await self._first.saved(record), busy=busy)

    def _steps(self, record: ClassRecord, plan: classes.ClassPlan) -> list[Step]:
        steps = [
            Step(record=record, lab=record.lab_of(student), act=act, student=student)
            for student, act in plan.steps
        ]
        if plan.first is not None:
            steps.insert(0, Step(record=record, lab=record.name, act=plan.first))
        return [step for step in steps if self._is_free(step)]

    def _is_free(self, step: Step) -> bool:
        """True if what holds the lab lets the step begin; who is held up takes no slot."""
        if step.lane is Lane.END:
            return self._operations.may_end(step.lab)
        return self._operations.holder(step.lab) is None

    def _begin(self, step: Step) -> None:
        """Work on a step in a task. What is made belongs to the owner of the class."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._turns.done(step)

        with asking(on_behalf(step.record.owner)):
            task = self._adapters.tasks.spawn("classes", self._supervise(step))
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _conclude(self, name: str) -> None:
        """Write that a class is ready or gone, planned anew where nothing else can move."""
        async with self._adapters.inventory.transaction() as tx:
            record = await self._record(name)
            plan = await self._plan(record)
            if plan.gone:
                await tx.delete_class(name)
                await tx.emit(EventDraft(type=EventType.CLASS_DESTROYED, subject=name))
            elif plan.ready and not record.told:
                await tx.put_class(replace(record, told=True, again=()))
                if record.wanted is Wanted.STOPPED:
                    return
                up = len(record.students) - len(record.failed)
                data = {"labs": up, "failed": sorted(record.failed)}
                await tx.emit(EventDraft(type=EventType.CLASS_READY, subject=name, data=data))

    async def _record(self, name: str) -> ClassRecord:
        return classes.named(await self._adapters.inventory.classes(), name)

    # a step

    async def _supervise(self, step: Step) -> None:
        """Do one thing; what goes wrong is told, and harms no other."""
        try:
            with self._adapters.tasks.contained("classes") as block:  # the other labs go on
                await self._do(step)
        except NoRoom as error:
            if step.queued:
                need = _needed(error)
                self._turns.found_no_room(step, asyncio.get_running_loop().time(), need)
            else:
                await self._went_wrong(step, error)
        except LabdError as error:
            await self._went_wrong(step, error)
        else:
            if block.failed:
                log.error("%s of lab %s met a fault of labd", step.act, step.lab)
                await self._went_wrong(step, Conflict(f"labd has a fault: {block.error}"))
            else:
                self._turns.succeeded(step)

    async def _went_wrong(self, step: Step, error: LabdError) -> None:
        record = step.record
        log.warning("lab %s of class %s: %s failed: %s", step.lab, record.name, step.act, error)
        if step.lane is Lane.END:
            self._turns.failed(step, asyncio.get_running_loop().time())
            return
        failed = [step.student] if step.student else [item.name for item in record.students]
        try:
            for student in failed:
                await self._write_failed(record.name, student, error.message)
        except LabdError as another:
            log.warning("that it failed cannot be written: %s", another)
            self._turns.failed(step, asyncio.get_running_loop().time())

    async def _do(self, step: Step) -> None:
        if isinstance(step.act, FirstAct):
            await self._first.do(step.record, step.act)
        elif step.act is ClassAct.FORK:
            await self._fork(step)
        else:
            await self._act(step)

    async def _act(self, step: Step) -> None:
        kind = OperationKind(str(step.act))
        if step.queued:
            await self._leave_room(step)
        operation = await self._labs.act(kind, step.lab, (), force=False, grace=_GRACE)
        self._turns.begun(step)
        done = await self._operations.wait(operation.id, _ENDS_WITHIN)
        if done.state is OperationState.FAILED:
            raise Conflict(_why(done))
        if step.act is ClassAct.START:
            await self._write_started(step.record.name, step.student)

    async def _leave_room(self, step: Step) -> None:
        """Leave the room to those to whom it was promised.

        Raises:
            NoRoom: There is none besides.
        """
        needs = await self.needs()
        promised = await self.expected(step.record.name, needs)
        if promised:
            forks = step.act is ClassAct.FORK
            each = (
                await self.each(step.record, needs)
                if forks
                else max(await self.stopped(step.record), default=0)
            )
            # As one sum: it is tried again when there are so many bytes.
            room = await self._labs.room()
            classes.require_room(step.record.name, 1, promised + each, room)

    async def _fork(self, step: Step) -> None:
        record, student, lab = step.record, step.student, step.lab
        own = next(item.settings for item in record.students if item.name == student)

        async def more(tx: Transaction) -> None:
            """Write whose the lab is, together with the lab."""
            present = await self._record(record.name)
            made = await self._adapters.inventory.lab(lab)
            if made is None or made.origin != record.checkpoint:
                raise Conflict(f"checkpoint {record.source} is another one by now")
            if present.wanted is not Wanted.RUNNING:
                raise Conflict(f"class {record.name} shall not run any more")
            await tx.put_class(replace(present, made={**present.made, student: made.key}))
            token = class_token(
                self._adapters.token_secret,
                record.name,
                student,
                made,
                created=self._adapters.clock(),
            )
            await put_token(tx, token)

        if step.queued:
            await self._leave_room(step)
        (operation,) = await self._checkpoints.fork(
            record.source,
            lab,
            count=0,
            settings={"student": student, **record.settings, **own},
            lease=record.lease,
            more=more,
        )
        self._turns.begun(step)
        done = await self._operations.wait(operation.id, _FORKS_WITHIN)
        if done.state is OperationState.FAILED:
            raise Conflict(_why(done))

    async def _write_started(self, name: str, student: str) -> None:
        """Write that a lab was started again: once, for who stops it afterwards means it."""
        async with self._adapters.inventory.transaction() as tx:
            record = await self._record(name)
            await tx.put_class(replace(record, again=_without(record.again, student)))

    async def _write_failed(self, name: str, student: str, message: str) -> None:
        async with self._adapters.inventory.transaction() as tx:
            found = {record.name: record for record in await self._adapters.inventory.classes()}
            record = found.get(name)
            if record is None or record.wanted is not Wanted.RUNNING:
                return
            failed: Mapping[str, str] = {**record.failed, student: message}
            again = _without(record.again, student)
            await tx.put_class(replace(record, failed=failed, again=again))
            data = {"student": student, "reason": message}
            await tx.emit(
                EventDraft(
                    type=EventType.CLASS_STUDENT_FAILED,
                    lab=record.lab_of(student),
                    subject=name,
                    data=data,
                )
            )

    async def close(self) -> None:
        """Stop working; operations that were begun go on, and the next daemon begins the others."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _why(done: OperationRecord) -> str:
    return str((done.error or {}).get("message", "it failed"))


def _without(students: tuple[str, ...], student: str) -> tuple[str, ...]:
    return tuple(item for item in students if item != student)


def _needed(error: NoRoom) -> int:
    """Return the bytes of memory that were lacking room; 0 where it is not memory that lacks."""
    sizes = error.details
    if {"asked", "each", "room"} <= sizes.keys():
        return sizes["each"] if isinstance(sizes["each"], int) else 0
    needed = sizes.get("needed") if "promised" in sizes else 0
    return needed if isinstance(needed, int) else 0
