"""Warm pools: intent in the inventory, brought about in the background, given back for memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from labd.core.adapters import NODE_UIDS, Adapters
from labd.core.admission import admit_forks
from labd.core.operations import Operations
from labd.features.checkpoints import CheckpointService
from labd.features.labs import Labs, Watcher
from labd.features.warm.members import WarmMembers
from labd.features.warm.views import WarmPoolView
from labd.host.backoff import Backoff
from labd.host.threads import quick
from labd.inventory.port import Transaction
from labd.model.checkpoints import MAX_COUNT, CheckpointRecord
from labd.model.errors import InputError, LabdError, NoRoom, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.machine import GuestEvent, GuestEventKind
from labd.model.names import did_you_mean
from labd.model.pools import KEPT, MemberState, WarmMember, WarmPoolRecord, waiting
from labd.model.records import OperationKind
from labd.model.units import format_size

log = logging.getLogger(__name__)

_TICK = 0.1  # seconds between looks, when nothing wakes them
_ALL = 1 << 30
_AT_ONCE = 2  # members of all pools that are made at one time
_FIRST_AGAIN, _LAST_AGAIN = 2.0, 60.0  # seconds until what could not be made is tried again
_SPOILT = {GuestEventKind.EXITED, GuestEventKind.RESUMED}
# While these run, which is not for long, the host's CPUs are theirs.
_STARTS = {OperationKind.FORK, OperationKind.RESTORE, OperationKind.CHECKPOINT}


@dataclass(frozen=True, slots=True)
class WarmPoolPlan:
    """What is due: keys of members to end, and of checkpoints to make a member of."""

    end: tuple[str, ...]
    make: tuple[str, ...]


def plan(pools: Sequence[WarmPoolRecord], members: Sequence[WarmMember]) -> WarmPoolPlan:
    """Return what is due for the sizes of pools. Pure.

    Args:
        pools: As they shall be.
        members: As they are, the oldest first.
    """
    sizes = {pool.checkpoint: pool.size for pool in pools}
    left = dict(sizes)
    end = []
    # Those that are being made come last, whatever their age: what is ready is worth more.
    for member in sorted(members, key=lambda item: item.state is not MemberState.READY):
        if member.state is MemberState.ENDING or left.get(member.checkpoint, 0) == 0:
            end.append(member.key)
        else:
            left[member.checkpoint] -= 1
    make = [key for key in sizes for _ in range(left[key])]
    return WarmPoolPlan(end=tuple(end), make=tuple(make))


def require_room(name: str, due: int, each: int, room: int) -> None:
    """Raise NoRoom unless the host holds so many forks more.

    Args:
        name: Of the checkpoint.
        due: Forks that would be made.
        each: Bytes that one may need for itself once it runs.
        room: Bytes that pools may take.

    Raises:
        NoRoom: Says how many fit.
    """
    admit_forks(
        due,
        each,
        room,
        lambda fit, room: (
            f"a pool of {due} more forks of {name} does not fit: each may need "
            f"{format_size(each)}, and pools may take {format_size(room)} of the host, "
            f"enough for {fit}; keep fewer ready, or stop labs"
        ),
    )


class WarmPools:
    """Warm pools: forks that stand ready before somebody asks for them."""

    def __init__(
        self,
        adapters: Adapters,
        operations: Operations,
        labs: Labs,
        checkpoints: CheckpointService,
        members: WarmMembers,
        watcher: Watcher,
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._labs = labs
        self._checkpoints = checkpoints
        self._members = members
        self._making: dict[asyncio.Task[None], str] = {}  # -> key of the checkpoint
        self._staying: dict[str, float] = {}  # members that could not be ended, and until when
        self._reasons: dict[str, str] = {}
        self._again: dict[str, float] = {}  # loop time
        self._backoffs: dict[str, Backoff] = {}
        self._spoilt: set[str] = set()  # machine keys
        self._wake = asyncio.Event()
        self._resting = False
        watcher.others = self._heard

    # asking

    async def all(self) -> Sequence[WarmPoolView]:
        """Return all pools by name of their checkpoint."""
        found = [await self._view(pool) for pool in await self._adapters.inventory.pools()]
        return sorted(found, key=lambda view: view.checkpoint)

    async def get(self, checkpoint: str) -> WarmPoolView:
        """Return the pool of a checkpoint; NotFound when there is none."""
        record = await self._checkpoints.record(checkpoint)
        return await self._view(await self._pool(record))

    async def _pool(self, record: CheckpointRecord) -> WarmPoolRecord:
        pools = {pool.checkpoint: pool for pool in await self._adapters.inventory.pools()}
        if record.key in pools:
            return pools[record.key]
        names = [await self._name(key) for key in pools]
        raise NotFound(f"there is no pool of checkpoint {record.name}{did_you_mean('', names)}")

    async def _view(self, pool: WarmPoolRecord) -> WarmPoolView:
        members = await self._members.of(pool.checkpoint)
        pids = [node.process.pid for node in waiting(members) if node.process is not None]
        sizes = [await quick(self._adapters.own_memory, pid) for pid in pids]
        return WarmPoolView(
            record=pool,
            checkpoint=await self._name(pool.checkpoint),
            members=tuple(members),
            memory=sum(sizes),
            reason=self._reasons.get(pool.checkpoint, ""),
        )

    async def _record(self, key: str) -> CheckpointRecord | None:
        records = await self._adapters.inventory.checkpoints()
        return next((record for record in records if record.key == key), None)

    async def _name(self, key: str) -> str:
        record = await self._record(key)
        return record.name if record is not None else key

    # changing

    async def warm(self, checkpoint: str, size: int) -> WarmPoolView:
        """Keep so many forks of a checkpoint ready; of a pool that is there, change the size.

        They are made in the background.

        Raises:
            InputError: The size is out of range, or the checkpoint cannot work on this host.
            NoRoom: The host cannot hold them; says how many fit.
        """
        if size < 1 or size > MAX_COUNT:
            raise InputError(
                f"a pool keeps 1 to {MAX_COUNT} forks ready, not {size}; "
                f"`lab pool cool {checkpoint[:64]}` ends one"
            )
        record = await self._checkpoints.usable(checkpoint)
        each = await self._checkpoints.need(record)
        async with self._waking() as tx:
            await self._checkpoints.record(checkpoint)  # it may be gone by now
            pools = {pool.checkpoint: pool for pool in await self._adapters.inventory.pools()}
            old = pools.get(record.key)
            due = size - len(await self._members.of(record.key, KEPT))
            if due > 0:
                self._require_users(record, due)
                require_room(checkpoint, due, each, await self._room())
            if old is None or old.size != size:
                pool = WarmPoolRecord(
                    checkpoint=record.key, size=size, created=self._adapters.clock()
                )
                pool = pool if old is None else replace(old, size=size)
                await tx.put_pool(pool)
                data = {"size": size, "was": old.size if old is not None else 0}
                await tx.emit(EventDraft(type=EventType.POOL_SET, subject=checkpoint, data=data))
        self._again.pop(record.key, None)
        self._backoffs.pop(record.key, None)
        self._reasons.pop(record.key, None)
        return await self.get(checkpoint)

    @asynccontextmanager
    async def _waking(self) -> AsyncIterator[Transaction]:
        """Begin a transaction that may make a pool, after which is looked what is due.

        Also when the task is cancelled as it commits: the change stands.
        """
        try:
            async with self._adapters.inventory.transaction() as tx:
                yield tx
        finally:
            self._wake.set()

    def _require_users(self, record: CheckpointRecord, due: int) -> None:
        if due * len(record.nodes) > NODE_UIDS:
            raise NoRoom(
                f"a pool of {due} forks of {record.name} needs {due * len(record.nodes)} user "
                f"ids, and a root has {NODE_UIDS}; keep fewer ready"
            )

    async def _room(self) -> int:
        """Return the bytes that pools may still take."""
        return await self._labs.room() - self._adapters.limits.pool_reserve

    async def cool(self, checkpoint: str) -> None:
        """End the pool of a checkpoint; its forks that stand ready are gone when this returns."""
        async with self._adapters.inventory.transaction() as tx:
            record = await self._checkpoints.record(checkpoint)
            await self._pool(record)
            await tx.delete_pool(record.key)
            await tx.emit(EventDraft(type=EventType.POOL_COOLED, subject=checkpoint))
        await self._stop_making({record.key})
        for member in await self._members.of(record.key):
            await self._members.end(member.key)

    async def _stop_making(self, checkpoints: Collection[str] | None = None) -> None:
        tasks = [t for t, key in self._making.items() if checkpoints is None or key in checkpoints]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # memory

    async def release(self, free: int, at_most: int = _ALL) -> int:
        """End members that stand ready, the newest first, until so many bytes are available.

        Whoever finds that the host runs short of memory calls this before anything that runs is
        touched. A pool is filled again when there is room.

        Args:
            free: Bytes that shall be available (`Adapters.memory_available`).
            at_most: How many are ended.

        Returns:
            How many were ended.
        """
        given: dict[str, int] = {}
        ready = await self._adapters.inventory.pool_members()
        for member in reversed([m for m in ready if m.state is MemberState.READY]):
            if sum(given.values()) == at_most or self._adapters.memory_available() >= free:
                break
            if await self._end(member.key):
                given[member.checkpoint] = given.get(member.checkpoint, 0) + 1
        for checkpoint, forks in given.items():
            await self._tell_given_back(checkpoint, forks)
        return sum(given.values())

    async def relieve(self) -> str:
        """Give back what the host's reserve needs; the first relief of `MemoryGuard`."""
        given = await self.release(self._adapters.limits.memory_reserve)
        return f"{given} forks that stood ready were given back" if given else ""

    async def _tell_given_back(self, checkpoint: str, forks: int) -> None:
        self._backoffs[checkpoint] = Backoff(_LAST_AGAIN, _LAST_AGAIN)
        self._hold(checkpoint)
        async with self._adapters.inventory.transaction() as tx:
            data = {"forks": forks, "left": len(await self._members.of(checkpoint, KEPT))}
            name = await self._name(checkpoint)
            await tx.emit(EventDraft(type=EventType.POOL_GIVEN_BACK, subject=name, data=data))
        self._reasons[checkpoint] = "the host is short of memory"

    def _hold(self, checkpoint: str) -> None:
        """Make no member for a while, the longer the more often there was a reason."""
        backoff = self._backoffs.setdefault(checkpoint, Backoff(_FIRST_AGAIN, _LAST_AGAIN))
        self._again[checkpoint] = asyncio.get_running_loop().time() + backoff.pause()

    # what is due

    async def run(self) -> None:
        """Keep pools as they shall be, for ever."""
        while True:
            there = True
            try:
                there = await self._is_needed()
                if there:
                    await self.tick()
                else:
                    self._spoilt.clear()  # machines of labs that are gone
            except (LabdError, OSError) as error:
                log.warning("pools cannot be looked at: %s", error)
            with suppress(TimeoutError):
                # Where there is no pool, only `warm` makes work; see `_waking`.
                async with asyncio.timeout(_TICK if there else None):
                    await self._wake.wait()
            self._wake.clear()

    async def _is_needed(self) -> bool:
        """True if there is a pool, or what is left of one."""
        inventory = self._adapters.inventory
        return bool(await inventory.pools() or await inventory.pool_members())

    async def tick(self) -> None:
        """Do once what is due."""
        if self._resting:
            return
        members = await self._adapters.inventory.pool_members()
        spoilt, self._spoilt = self._spoilt, set()
        making = len(self._making)
        for member in members:
            if member.state is MemberState.READY and any(n.key in spoilt for n in member.nodes):
                await self._end(member.key)
        if members and await self._labs.room() < self._adapters.limits.pool_reserve // 2:
            # One; the next look sees what it was good for.
            await self.release(self._adapters.memory_total, at_most=1)
            return
        due = plan(
            await self._adapters.inventory.pools(), await self._adapters.inventory.pool_members()
        )
        for key in due.end:
            if (found := await self._members.find(key)) and found.state is not MemberState.MAKING:
                await self._end(key)
        if any(operation.kind in _STARTS for operation in self._operations.running()):
            return
        now = asyncio.get_running_loop().time()
        ripe = [key for key in due.make if self._again.get(key, 0.0) <= now]
        for key in ripe[: max(_AT_ONCE - making, 0)]:
            self._begin(key, self._make(key))

    async def _end(self, key: str) -> bool:
        """End a member; tell whether there was one. One that stays is tried again later."""
        now = asyncio.get_running_loop().time()
        self._staying = {item: again for item, again in self._staying.items() if again > now}
        if key in self._staying and not self._resting:
            return False
        try:
            return await self._members.end(key)
        except LabdError as error:
            self._staying[key] = now + _LAST_AGAIN
            log.warning("a fork that stood ready cannot be removed: %s", error)
            return False

    def _begin(self, checkpoint: str, work: Coroutine[None, None, None]) -> None:
        task = self._adapters.tasks.spawn("pools", work)
        self._making[task] = checkpoint
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._making.pop(task, None)
        self._wake.set()

    async def _make(self, checkpoint: str) -> None:
        """Make one member; what goes wrong is told once, and tried again later."""
        record = await self._record(checkpoint)
        if record is None:
            return
        try:
            require_room(record.name, 1, await self._checkpoints.need(record), await self._room())
            await self._members.make(record, self._checkpoints.wanted(record))
        except (LabdError, OSError) as error:
            self._hold(checkpoint)
            await self._tell_failed(record, str(error))
        except Exception:  # a fault of labd: its supervisor tells it
            self._hold(checkpoint)
            raise
        else:
            self._again.pop(checkpoint, None)
            self._backoffs.pop(checkpoint, None)
            self._reasons.pop(checkpoint, None)

    async def _tell_failed(self, record: CheckpointRecord, reason: str) -> None:
        async with self._adapters.inventory.transaction() as tx:
            if self._reasons.get(record.key) == reason:
                return
            data = {"reason": reason}
            await tx.emit(EventDraft(type=EventType.POOL_FAILED, subject=record.name, data=data))
        self._reasons[record.key] = reason
        log.warning("the pool of checkpoint %s: %s", record.name, reason)

    def _heard(self, event: GuestEvent) -> None:
        """Hear of a machine that is no node's; a member's must do nothing at all."""
        if event.kind is GuestEventKind.UNRESPONSIVE:
            self._members.hung.add(event.key)  # a busy host is no reason to make it anew
        elif event.kind is GuestEventKind.RESPONSIVE:
            self._members.hung.discard(event.key)
        elif event.kind in _SPOILT:
            self._spoilt.add(event.key)
            self._wake.set()

    # the end

    async def rest(self) -> None:
        """End all members and make no more in this life of the daemon; the wish stays."""
        self._resting = True
        await self._stop_making()
        members = await self._adapters.inventory.pool_members()
        await asyncio.gather(*(self._end(member.key) for member in members))

    async def close(self) -> None:
        """Stop working; members stay as they are, and those half made are gone."""
        self._resting = True
        await self._stop_making()
