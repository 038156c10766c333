"""Operations: accepted requests with an id, progress and an outcome; at most one per lab."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace

from labd.host.backoff import Backoff
from labd.host.ratelimit import RateLimiter
from labd.host.supervision import TaskSupervisor
from labd.inventory.port import Inventory, Transaction
from labd.model.errors import Busy, Conflict, Fault, LabdError, NotFound, StorageFailed, Superseded
from labd.model.events import EventDraft, EventType
from labd.model.people import Owned
from labd.model.records import OperationKind, OperationRecord
from labd.model.request_kinds import Starting
from labd.model.requests import Request
from labd.model.states import OperationState

log = logging.getLogger(__name__)

Work = Callable[[OperationRecord], Awaitable[None]]
# Written with the row of a lab that is asked for, in the same transaction.
More = Callable[[Transaction], Awaitable[object]]
# Checks and writes inside the transaction that accepts an operation, where nothing else moves;
# returns the whole request.
Intent = Callable[[Transaction, OperationRecord], Awaitable[Request]]
# Kinds of which `OperationHandlers` does a part as `breakable`.
_BREAKABLE = frozenset({OperationKind.UP, OperationKind.START, OperationKind.RESTART})
_SOON = 0.01  # seconds
_FIRST_RETRY, _LAST_RETRY = 0.2, 5.0  # seconds between tries to write an outcome
_SETTLES_WITHIN = 5.0  # seconds for an operation that is as good as over
_PROGRESS_EVERY = 1.0  # seconds between two progress events of one operation


def problem_of(error: BaseException) -> dict[str, object]:
    """Return what is kept of an error: code, message and its details."""
    if isinstance(error, LabdError):
        return {**error.details, "code": error.code, "message": error.message}
    return {
        "code": "internal",
        "message": f"labd has a fault ({type(error).__name__}: {error}); its log has the details",
    }


class Operations:
    """Starts operations, holds labs for them, and keeps their records.

    Args:
        inventory: Keeps the records.
        clock: RFC 3339 now.
        begun: Is told the name of each lab that an operation takes.
    """

    def __init__(
        self,
        inventory: Inventory,
        clock: Callable[[], str],
        begun: Callable[[str], None] = lambda _: None,
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self._inventory = inventory
        self._clock = clock
        self._begun = begun
        self._supervisor = tasks or TaskSupervisor()
        self._works: dict[OperationKind, Work] = {}
        self._held: dict[str, OperationRecord] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, Mapping[str, object]] = {}
        self._told: dict[str, RateLimiter] = {}  # progress, by operation
        self._breakable: dict[str, asyncio.Task[None]] = {}
        self._superseded: dict[str, str] = {}
        self._closed = False

    def register(self, works: Mapping[OperationKind, Work]) -> None:
        """Have operations of these kinds carried on after a restart, each by its work.

        Raises:
            ValueError: One of the kinds has a work already: a fault of the program.
        """
        if twice := works.keys() & self._works.keys():
            raise ValueError(f"two works for {', '.join(sorted(twice))}")
        self._works.update(works)

    def work_of(self, kind: OperationKind) -> Work:
        """Return how operations of a registered kind are worked on; KeyError for any other."""
        return self._works[kind]

    def handles(self, kind: OperationKind) -> bool:
        """True if operations of this kind are carried on after a restart."""
        return kind in self._works

    def require_free(self, lab: str) -> None:
        """Raise Busy if an operation holds the lab.

        Raises:
            Busy: Naming the one that does.
        """
        holder = self._held.get(lab)
        if holder is not None:
            raise Busy(
                f"lab {lab} is busy: {holder.kind} ({holder.id}) runs; "
                f"wait for it with `lab wait {lab} --for idle`",
                operation=holder.id,
                kind=str(holder.kind),
            )

    def holder(self, lab: str) -> OperationRecord | None:
        """Return the operation that holds a lab."""
        return self._held.get(lab)

    async def begin(
        self,
        lab: str,
        request: Request,
        work: Work,
        intent: Intent | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
    ) -> OperationRecord:
        """Write the operation and its intent in one transaction, then work on it in a task.

        Args:
            lab: That it holds; empty for none.
            request: What is asked for, as far as it is known before `intent`.
            work: Works on it.
            intent: Fills the request in.
            look: Is called before the transaction, while the lab is held already: what must be
                asked of disks and of the host for `intent`, which may wait for nothing.

        A cancellation of the caller that comes after the commit takes nothing back: the operation
        was accepted, and is worked on.

        Raises:
            Busy: Another operation holds the lab.
            Conflict: The daemon stops.
            LabdError: Of `look` or `intent`; nothing was written.
        """
        self._require_open()
        if lab:
            self.require_free(lab)
        operation = OperationRecord(
            id=f"op-{secrets.token_hex(6)}",
            kind=request.kind,
            lab=lab,
            request=request,
            created=self._clock(),
        )
        if lab:
            self._held[lab] = operation
            self._begun(lab)
        try:
            if look is not None:
                await look()
            operation = await self._accept(operation, intent)
        except BaseException:
            if await self._inventory.operation(operation.id) is None:
                self._release(operation)
            else:
                self._spawn(operation, work)
            raise
        self._spawn(operation, work)
        return operation

    async def _accept(self, operation: OperationRecord, intent: Intent | None) -> OperationRecord:
        """Write an operation with its intent; return it as it is written."""
        async with self._inventory.transaction() as tx:
            self._require_open()  # nothing follows the word that labd has stopped
            await tx.emit(self._draft(operation, EventType.OPERATION_STARTED, {}))
            if intent is not None:
                operation = replace(operation, request=await intent(tx, operation))
            record = await self._inventory.lab(operation.lab)
            if record is not None:
                operation = replace(operation, of=Owned(owner=record.owner, key=record.key))
            await tx.put_operation(operation)
        return operation

    def _require_open(self) -> None:
        if self._closed:
            raise Conflict("labd is stopping; ask again when it is back")

    async def breakable(
        self, operation: OperationRecord, work: Coroutine[None, None, None]
    ) -> None:
        """Do a part of an operation that `supersede` may end early.

        Raises:
            Superseded: It was ended, and every task of it has.
        """
        task = asyncio.create_task(work, name=f"{operation.id}-work")
        self._breakable[operation.id] = task
        try:
            await task
        except asyncio.CancelledError:
            why = self._superseded.get(operation.id)
            if why is None:
                raise
            raise Superseded(
                f"{operation.kind} of lab {operation.lab} was ended by {why}"
            ) from None
        except LabdError:
            raise
        except Exception as fault:  # supervisor loop: what a bug left half done is undone too
            log.exception("operation %s met a fault of labd", operation.id)
            raise Fault(str(problem_of(fault)["message"])) from fault
        finally:
            del self._breakable[operation.id]

    def superseded(self, operation: OperationRecord) -> bool:
        """True if an operation is ended early; what takes its place cleans up after it."""
        return operation.id in self._superseded

    async def supersede(self, lab: str, why: OperationKind) -> None:
        """End the operation that holds a lab, where it may be ended, and wait until it has.

        One that has not begun its work, or is just undoing it, is waited for a little.
        """
        end = asyncio.get_running_loop().time() + _SETTLES_WITHIN
        while (holder := self._held.get(lab)) is not None and holder.kind in _BREAKABLE:
            work = self._breakable.get(holder.id)
            if work is not None:
                self._superseded[holder.id] = str(why)
                work.cancel()
                await asyncio.wait({self._tasks[holder.id]})
                return
            if asyncio.get_running_loop().time() > end:
                return
            await asyncio.sleep(_SOON)

    def may_end(self, lab: str) -> bool:
        """True if a lab can be ended now: it is free, or a start that `supersede` ends."""
        holder = self._held.get(lab)
        return holder is None or holder.kind in _BREAKABLE

    def running(self) -> list[OperationRecord]:
        """Return the operations that hold a lab."""
        return list(self._held.values())

    async def mark_undoing(
        self, tx: Transaction, operation: OperationRecord, error: LabdError
    ) -> None:
        """Write that an operation has failed and is being undone, also by the next daemon."""
        request = replace(operation.request_as(Starting), undoing=error.message)
        await tx.put_operation(replace(operation, request=request))

    def resume(self, operation: OperationRecord, work: Work) -> None:
        """Go on with an operation that an earlier daemon left half done."""
        self._spawn(operation, work)

    def _spawn(self, operation: OperationRecord, work: Work) -> None:
        if self._closed:
            return  # the next daemon goes on with it
        if operation.lab:
            self._held[operation.lab] = operation
        task = self._supervisor.spawn("operations", self._run(operation, work))
        self._tasks[operation.id] = task

    async def _run(self, operation: OperationRecord, work: Work) -> None:
        """Supervise one operation: whatever it raises becomes its outcome."""
        error: BaseException | None = None
        try:
            await work(operation)
        except asyncio.CancelledError:
            # The daemon stops: the record stays `running`, and the next daemon goes on.
            self._release(operation)
            raise
        except LabdError as failure:
            error = failure
        except Exception as fault:  # supervisor loop: a bug must end one operation, not labd
            log.exception("operation %s failed by a fault of labd", operation.id)
            error = fault
        try:
            await self._finish_surely(operation, error)
        finally:
            self._release(operation)

    async def _finish_surely(self, operation: OperationRecord, error: BaseException | None) -> None:
        """Write the outcome as soon as the inventory can be written."""
        backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)
        while True:
            try:
                await self.finish(operation, error)
            except StorageFailed as problem:
                if self._closed:
                    return  # the next daemon finds the operation running, and goes on with it
                log.warning("the outcome of operation %s waits: %s", operation.id, problem)
                self._let_go(operation)  # another operation may be what makes room
                await asyncio.sleep(backoff.pause())
            except LabdError:
                log.exception("the outcome of operation %s cannot be written", operation.id)
                return
            else:
                return

    def _let_go(self, operation: OperationRecord) -> None:
        holder = self._held.get(operation.lab)
        if holder is not None and holder.id == operation.id:
            del self._held[operation.lab]

    def _release(self, operation: OperationRecord) -> None:
        self._let_go(operation)
        self._tasks.pop(operation.id, None)
        self._told.pop(operation.id, None)
        self._progress.pop(operation.id, None)
        self._superseded.pop(operation.id, None)

    async def finish(self, operation: OperationRecord, error: BaseException | None) -> None:
        """Write the outcome."""
        done = replace(
            operation,
            state=OperationState.FAILED if error else OperationState.SUCCEEDED,
            error=problem_of(error) if error else None,
            progress=self._progress.get(operation.id, operation.progress),
            finished=self._clock(),
        )
        kind = EventType.OPERATION_FAILED if error else EventType.OPERATION_SUCCEEDED
        data: dict[str, object] = {"error": done.error} if error else {}
        async with self._inventory.transaction() as tx:
            await tx.put_operation(done)
            await tx.emit(self._draft(done, kind, data))
            # Free before anybody can hear that it is over; what is asked next is written after.
            self._let_go(operation)
        if error:
            log.warning("operation %s (%s %s) failed: %s", done.id, done.kind, done.lab, error)
        else:
            log.info("operation %s (%s %s) succeeded", done.id, done.kind, done.lab)

    def _draft(
        self, operation: OperationRecord, kind: EventType, data: Mapping[str, object]
    ) -> EventDraft:
        return EventDraft(
            type=kind,
            lab=operation.lab,
            operation=operation.id,
            data={"kind": str(operation.kind), **data},
        )

    async def progress(
        self, operation: OperationRecord, done: int, total: int | None, text: str
    ) -> None:
        """Tell how far an operation is; an event at most once a second."""
        self._progress[operation.id] = {"done": done, "total": total, "text": text}
        limiter = self._told.setdefault(operation.id, RateLimiter(1 / _PROGRESS_EVERY, 1))
        if limiter.take() > 0:
            return
        async with self._inventory.transaction() as tx:
            await tx.emit(
                self._draft(operation, EventType.OPERATION_PROGRESS, self._progress[operation.id])
            )

    async def all(self, *, limit: int = 100) -> Sequence[OperationRecord]:
        """Return operations, the newest first."""
        return await self._inventory.operations(limit=limit)

    async def get(self, id: str) -> OperationRecord:
        """Return an operation with its live progress.

        Raises:
            NotFound: There is none.
        """
        operation = await self._inventory.operation(id)
        if operation is None:
            raise NotFound(f"there is no operation {id[:40]}")
        live = self._progress.get(id)
        return operation if live is None else replace(operation, progress=live)

    async def wait(self, id: str, timeout: float) -> OperationRecord:
        """Return an operation when it has ended, or as it is after `timeout` seconds."""
        task = self._tasks.get(id)
        if task is not None and timeout > 0:
            await asyncio.wait({task}, timeout=timeout)
        return await self.get(id)

    async def close(self) -> None:
        """Stop working; half done operations go on with the next daemon."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
