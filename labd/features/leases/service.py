"""Leases of labs: kept in the inventory, looked at every second, and carried out by operations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from labd.core.adapters import Adapters
from labd.core.operations import More
from labd.core.state_writer import StateWriter
from labd.features.leases import plan as leases
from labd.features.leases.plan import LeaseAct, LeaseStep
from labd.features.leases.views import LeaseView
from labd.inventory.port import Transaction
from labd.model.errors import Conflict, LabdError, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.lab_leases import LabLease, LeaseAsk, LeaseStage
from labd.model.records import OperationKind, OperationRecord, Wanted
from labd.model.states import LabState
from labd.model.units import rfc3339

log = logging.getLogger(__name__)

_TICK = 1.0  # seconds; a look costs some microseconds per lease
_AGAIN = 10.0  # seconds until what could not be done is tried again
_GRACE = 20.0  # seconds that a guest has to power off


class LabActions(Protocol):
    """What ends labs whose leases are over."""

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        """Begin an operation of a lab; `grace` is how many seconds a guest has to obey."""


class Leasing:
    """Keeps the deadlines of labs, and does what is due."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter, labs: LabActions) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._labs = labs
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[tuple[str, OperationKind], float] = {}  # -> when to try again

    # asking

    async def all(self) -> Sequence[LeaseView]:
        """Return all leases by lab."""
        return [self.view(lease) for lease in await self._adapters.inventory.lab_leases()]

    async def get(self, lab: str) -> LeaseView:
        """Return the lease of a lab."""
        return self.view(await self._lease(lab))

    async def find(self, lab: str) -> LeaseView | None:
        """Return the lease of a lab, None when it has none."""
        lease = await self._adapters.inventory.lab_lease(lab)
        return self.view(lease) if lease is not None else None

    async def _lease(self, lab: str) -> LabLease:
        await self._state_writer.lab(lab)
        lease = await self._adapters.inventory.lab_lease(lab)
        if lease is None:
            raise NotFound(f"lab {lab} has no lease; `lab lease set {lab} 3h` gives it one")
        return lease

    def view(self, lease: LabLease) -> LeaseView:
        """Return what people are told of a lease."""
        left = leases.remaining(lease, self._adapters.moment())
        running = lease.stage is LeaseStage.RUNNING
        return LeaseView(
            lease=lease,
            ends=rfc3339(leases.ends(lease)),
            destroys=rfc3339(leases.destroys(lease)),
            left=max(left, 0.0) if running else 0.0,
        )

    # changing

    def check(self, ask: LeaseAsk) -> None:
        """Raise InputError unless a lease can be given.

        Raises:
            InputError: It would be over at once, or is too long.
        """
        leases.seconds_of(ask, self._adapters.moment())

    def of(self, lab: str, ask: LeaseAsk | None) -> More | None:
        """Return what writes a lease with the row of a lab that is asked for, None for none.

        Raises:
            InputError: It would be over at once, or is too long.
        """
        if ask is None:
            return None
        self.check(ask)
        return lambda tx: self.write(tx, lab, ask)

    async def write(self, tx: Transaction, lab: str, ask: LeaseAsk) -> LabLease:
        """Give a lab a lease inside a transaction of the caller."""
        lease = leases.begun(lab, ask, self._adapters.moment())
        await self._put(tx, lease, "set")
        return lease

    async def set(self, lab: str, ask: LeaseAsk) -> LeaseView:
        """Give a lab a lease, in place of the one that it has.

        Raises:
            InputError: It would be over at once, or is too long.
            NotFound: There is no such lab.
        """
        self.check(ask)
        async with self._adapters.inventory.transaction() as tx:
            await self._living(lab)
            lease = await self.write(tx, lab, ask)
        return self.view(lease)

    async def extend(self, lab: str, seconds: float) -> LeaseView:
        """Let a lease last longer; one that has ended begins again.

        Raises:
            InputError: It would not be longer, or too long.
            NotFound: The lab has none.
        """
        async with self._adapters.inventory.transaction() as tx:
            lease = await self.write_longer(tx, lab, seconds)
        return self.view(lease)

    async def write_longer(self, tx: Transaction, lab: str, seconds: float) -> LabLease:
        """Let a lease last longer, inside a transaction of the caller."""
        lease = await self._lease(lab)
        await self._living(lab)
        lease = leases.extended(lease, seconds, self._adapters.moment())
        await self._put(tx, lease, "extended")
        return lease

    async def cancel(self, lab: str) -> None:
        """Let a lab be without a lease; NotFound when it has none."""
        async with self._adapters.inventory.transaction() as tx:
            await self._lease(lab)
            await self._living(lab)
            await tx.delete_lab_lease(lab)
            await tx.emit(EventDraft(type=EventType.LAB_LEASE_CANCELLED, lab=lab))

    async def _living(self, lab: str) -> None:
        if (await self._state_writer.lab(lab)).wanted is Wanted.DESTROYED:
            raise Conflict(f"lab {lab} is being destroyed; its lease cannot be changed any more")

    async def _put(self, tx: Transaction, lease: LabLease, cause: str) -> None:
        await tx.put_lab_lease(lease)
        data = {**_times(lease), "cause": cause, "keep": lease.keep, "warn": list(lease.warn)}
        await tx.emit(EventDraft(type=EventType.LAB_LEASE_SET, lab=lease.lab, data=data))

    # what is due

    async def run(self) -> None:
        """Look every second. The wall clock and the timers of the loop are not to be relied on.

        Where there is no lease, the next is told by an event, as everything that makes one.
        """
        while True:
            last, there = await self._adapters.inventory.last_seq(), True
            try:
                there = bool(await self._adapters.inventory.lab_leases())
                await self.tick()
            except LabdError as error:
                log.warning("leases cannot be looked at: %s", error)
            await asyncio.sleep(_TICK)
            if not there:
                await self._adapters.inventory.wait_events(last)

    async def tick(self) -> None:
        """Do once what is due for each lease."""
        for lease in await self._adapters.inventory.lab_leases():
            with self._adapters.tasks.contained("leases"):  # the others end all the same
                await self._act_on(lease)

    async def _act_on(self, lease: LabLease) -> None:
        step = leases.plan(lease, self._adapters.moment())
        if step.act not in {LeaseAct.NOTHING, LeaseAct.DESTROY}:
            await self._write_step(lease.lab)
        elif step.act is LeaseAct.DESTROY:
            self._begin(lease.lab, OperationKind.DESTROY)
        elif lease.stage is LeaseStage.ENDED and await self._is_up(lease.lab):
            self._begin(lease.lab, OperationKind.DOWN)

    async def _write_step(self, lab: str) -> None:
        """Write what is due, planned anew where nothing else can move."""
        async with self._adapters.inventory.transaction() as tx:
            lease = await self._adapters.inventory.lab_lease(lab)
            if lease is None:
                return
            step = leases.plan(lease, self._adapters.moment())
            if step.act is LeaseAct.MOVED:
                await self._put(tx, step.lease, "clock")
            elif step.act in {LeaseAct.WARN, LeaseAct.END}:
                await tx.put_lab_lease(step.lease)
                await tx.emit(_told(step))

    async def _is_up(self, lab: str) -> bool:
        record = await self._adapters.inventory.lab(lab)
        if record is None or record.wanted is Wanted.DESTROYED:
            return False
        return record.state is not LabState.STOPPED

    def _begin(self, lab: str, kind: OperationKind) -> None:
        """Begin an operation, in a task: an operation that it takes the place of ends first."""
        now = asyncio.get_running_loop().time()
        self._tried = {key: again for key, again in self._tried.items() if again > now}
        if lab not in self._acting and (lab, kind) not in self._tried:
            self._tried[lab, kind] = now + _AGAIN
            task = self._adapters.tasks.spawn("leases", self._act(lab, kind))
            self._acting[lab] = task
            task.add_done_callback(lambda _: self._acting.pop(lab, None))

    async def _act(self, lab: str, kind: OperationKind) -> None:
        try:
            operation = await self._labs.act(kind, lab, (), force=False, grace=_GRACE)
            log.info("lab %s: %s (%s), for its lease is over", lab, kind, operation.id)
        except NotFound:
            log.info("lab %s is gone already", lab)
        except LabdError as error:
            log.warning("lab %s cannot %s yet, though its lease is over: %s", lab, kind, error)

    async def acted(self) -> None:
        """Wait until the operations that are due have been asked for."""
        await asyncio.gather(*self._acting.values())

    async def close(self) -> None:
        """Stop acting; operations that were begun go on."""
        tasks = list(self._acting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _times(lease: LabLease) -> Mapping[str, object]:
    return {"ends": rfc3339(leases.ends(lease)), "destroys": rfc3339(leases.destroys(lease))}


def _told(step: LeaseStep) -> EventDraft:
    lease = step.lease
    if step.act is LeaseAct.END:
        return EventDraft(type=EventType.LAB_LEASE_ENDED, lab=lease.lab, data=_times(lease))
    data = {**_times(lease), "before": step.before, "left": round(step.left, 3)}
    return EventDraft(type=EventType.LAB_LEASE_WARNING, lab=lease.lab, data=data)
