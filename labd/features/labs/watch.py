"""Guest events become moves of nodes. One worker keeps their order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from labd.core.nodes import Nodes
from labd.core.state_writer import StateWriter
from labd.host.backoff import Backoff
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.inventory.port import Inventory
from labd.model.errors import LabdError, StorageFailed
from labd.model.events import EventDraft, EventType
from labd.model.machine import GuestEvent, GuestEventKind, RunState
from labd.model.names import NodeRef
from labd.model.records import NodeRecord
from labd.model.states import NodeState

log = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 0.2, 2.0  # seconds between tries to write

_K = GuestEventKind
_OWNED = {NodeState.STARTING, NodeState.STOPPING}  # an operation has the node in its hands
_OVER = {*_OWNED, NodeState.STOPPED, NodeState.CRASHED}
_LIVE = {NodeState.RUNNING, NodeState.READY}
_PLAIN = {
    _K.WATCHDOG: EventType.NODE_WATCHDOG,
    _K.IO_ERROR: EventType.NODE_IO_ERROR,
    _K.STUCK: EventType.NODE_STUCK,
    _K.CONSOLE_LOST: EventType.NODE_CONSOLE_LOST,
    _K.CONSOLE_RESTORED: EventType.NODE_CONSOLE_RESTORED,
}


@dataclass(frozen=True, slots=True)
class _Heard:
    """An event with the life of the machine to which it belongs; None ends the launch of that."""

    key: str
    life: int
    event: GuestEvent | None
    handled: asyncio.Event


class Watcher:
    """Hears the drivers of nodes, and writes what happened to nodes on their own account.

    A machine's key is kept over its restarts. An event is bound to the life in which it was heard,
    so that the late end of an old process is never taken for the end of the next one. Events of a
    machine whose start is not written yet are kept, and handled in their order once it is.
    """

    def __init__(
        self,
        inventory: Inventory,
        nodes: Nodes,
        state_writer: StateWriter,
        tasks: TaskSupervisor,
    ) -> None:
        self._inventory = inventory
        self._nodes = nodes
        self._state_writer = state_writer
        self._queue: asyncio.Queue[_Heard] = asyncio.Queue()
        self._life: dict[str, int] = {}
        self._early: dict[str, list[GuestEvent]] = {}
        self._off: dict[str, asyncio.Event] = {}
        self._powered_off: dict[str, str] = {}  # key -> since when, for people
        self._was_ready: set[str] = set()
        self._causes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._hushed: set[str] = set()
        self._supervisor = tasks
        self._stuck: set[str] = set()  # killed in vain: no operation may wait for their end
        self._tasks: set[asyncio.Task[None]] = set()
        self._boots: list[NodeRef] = []
        self._rewatch = asyncio.Event()
        # Hears of machines that are no node's: those of pools.
        self.others: Callable[[GuestEvent], None] = lambda _: None
        nodes.listen(self._hear)

    def _hear(self, event: GuestEvent) -> None:
        if event.kind in {_K.POWERED_OFF, _K.EXITED}:
            self.off(event.key).set()
        if event.kind is _K.STUCK:
            self._stuck.add(event.key)
        self._put(event.key, event)

    def _put(self, key: str, event: GuestEvent | None) -> asyncio.Event:
        handled = asyncio.Event()
        self._queue.put_nowait(_Heard(key, self._life.get(key, 0), event, handled))
        return handled

    # what operations tell the watcher

    def expect(self, key: str) -> None:
        """Begin another life of a machine that is about to be launched."""
        self._forget(key)
        self._early[key] = []

    def begun(self, key: str) -> None:
        """Handle, soon, what a machine did while its start was written; `running` is committed."""
        self._put(key, None)

    async def started(self, key: str) -> None:
        """Handle what a machine did while its start was being written; `running` is committed."""
        await self._put(key, None).wait()

    def left_stopping(self, key: str) -> None:
        """Have the end of a machine that is stopping written: no operation waits for it."""
        self._stuck.add(key)

    def off(self, key: str) -> asyncio.Event:
        """Return the event that is set when the guest powers off or QEMU ends."""
        return self._off.setdefault(key, asyncio.Event())

    def powered_off(self, key: str, when: str = "") -> None:
        """Let the next end of a machine count as the guest's own power-off, not as a crash."""
        self._powered_off[key] = when

    @contextmanager
    def caused_by(self, key: str, operation: str) -> Iterator[None]:
        """Let the moves of a machine in this block carry the operation that causes them."""
        self._causes[key] = operation
        try:
            yield
        finally:
            self._causes.pop(key, None)

    @contextmanager
    def because(self, key: str, reason: str) -> Iterator[None]:
        """Let a machine that is paused in this block say why, for people."""
        self._reasons[key] = reason
        try:
            yield
        finally:
            self._reasons.pop(key, None)

    @contextmanager
    def suppressed(self, keys: Collection[str]) -> Iterator[None]:
        """Overhear in this block that machines are paused and go on: they are being saved."""
        self._hushed.update(keys)
        try:
            yield
        finally:
            self._hushed.difference_update(keys)

    def give_up(self, key: str) -> None:
        """Forget what a machine did whose start has failed."""
        self._forget(key)

    def drop(self, key: str) -> None:
        """Forget a machine that never comes back."""
        self._forget(key)
        self._stuck.discard(key)
        del self._life[key]

    def _forget(self, key: str) -> None:
        # The number of the life stays: what is still in the queue is of an earlier one.
        self._life[key] = self._life.get(key, 0) + 1
        for table in (self._early, self._off, self._causes, self._powered_off):
            table.pop(key, None)
        self._was_ready.discard(key)

    # the worker

    async def run(self) -> None:
        """Handle events for ever."""
        while True:
            heard = await self._queue.get()
            try:
                await self._sort(heard)
            finally:
                heard.handled.set()
                self._queue.task_done()

    async def _sort(self, heard: _Heard) -> None:
        if heard.life != self._life.get(heard.key, 0):
            return
        if heard.event is None:
            for event in self._early.pop(heard.key, []):
                await self._try(event)
        elif heard.key in self._early:
            self._early[heard.key].append(heard.event)
        else:
            await self._try(heard.event)

    async def _try(self, event: GuestEvent) -> None:
        with self._supervisor.contained("watcher") as block:  # a bug must not make labd deaf
            try:
                await self._until_written(event)
            except LabdError as error:
                log.warning("event %s of machine %s: %s", event.kind, event.key, error)
        if block.failed:
            log.error("event %s of machine %s met a fault of labd", event.kind, event.key)

    async def _until_written(self, event: GuestEvent) -> None:
        """Handle an event; while the inventory cannot be written, try again: it is not lost."""
        backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)
        while True:
            try:
                await self._handle(event)
            except StorageFailed as error:
                log.warning(
                    "event %s of machine %s waits for the inventory: %s",
                    event.kind, event.key, error,
                )  # fmt: skip
                await asyncio.sleep(backoff.pause())
            else:
                return

    async def _handle(self, event: GuestEvent) -> None:
        if event.key in self._hushed and event.kind in {_K.PAUSED, _K.RESUMED}:
            return
        node = await self._inventory.node_by_key(event.key)
        if node is None:
            self.others(event)
            return
        ref = NodeRef(node.lab, node.name)
        match event.kind:
            case _K.PAUSED:
                await self._paused(ref, node, event)
            case _K.RESUMED:
                await self._running_again(
                    ref, node, event, EventType.NODE_RESUMED, {NodeState.PAUSED, NodeState.PANICKED}
                )
            case _K.RESPONSIVE:
                # It asks QEMU, which may hang again; that must not hold up other machines.
                self._spawn(lambda: self._responsive(ref, node, event))
            case _K.RESET:
                await self._was_reset(ref, node, event)
            case _K.POWERED_OFF:
                self._end_powered_off(node, "")
            case _K.PANICKED:
                await self._panicked(ref, event)
            case _K.UNRESPONSIVE:
                await self._unresponsive(ref, node, event)
            case _K.EXITED:
                await self._exited(event)
            case kind if kind in _PLAIN:
                await self._tell(_PLAIN[kind], ref, event)
            case _K.AGENT_OPENED:
                log.debug("agent of %s opened its port", ref)

    def _spawn(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except LabdError as error:
                log.warning("watching a machine: %s", error)

        task = self._supervisor.spawn("watcher", run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(
        self, kind: EventType, ref: NodeRef, event: GuestEvent, operation: str = ""
    ) -> None:
        await self._state_writer.emit(
            EventDraft(
                type=kind, lab=ref.lab, node=ref.node, operation=operation, data=_facts(event)
            )
        )

    async def _was_reset(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        operation = self._causes.get(node.key, "")
        await self._tell(EventType.NODE_RESET, ref, event, operation)
        self._was_ready.discard(node.key)
        if node.state is not NodeState.READY:
            return
        await self._state_writer.move(
            ref,
            NodeState.RUNNING,
            operation=operation,
            reason="it was reset",
            unless=set(NodeState) - {NodeState.READY},
        )
        self.boots_again(ref)

    async def _panicked(self, ref: NodeRef, event: GuestEvent) -> None:
        await self._state_writer.move(
            ref,
            NodeState.PANICKED,
            reason="the guest panicked",
            data=_facts(event),
            unless=set(NodeState) - _LIVE - {NodeState.PAUSED, NodeState.UNRESPONSIVE},
        )

    async def _unresponsive(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        if node.state is NodeState.READY:
            self._was_ready.add(node.key)
        await self._state_writer.move(
            ref,
            NodeState.UNRESPONSIVE,
            reason="QEMU does not answer",
            data=event.data,
            unless=set(NodeState) - _LIVE - {NodeState.PAUSED},
        )

    async def _paused(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        # QEMU stops the CPUs of a guest that powered off, too.
        if node.state not in _LIVE or node.key in self._powered_off:
            return
        if node.state is NodeState.READY:
            self._was_ready.add(node.key)
        await self._state_writer.move(
            ref,
            NodeState.PAUSED,
            operation=self._causes.get(node.key, ""),
            reason=self._reasons.get(node.key, ""),
            data=_facts(event),
            unless=set(NodeState) - _LIVE,
        )

    async def _running_again(
        self,
        ref: NodeRef,
        node: NodeRecord,
        event: GuestEvent,
        kind: EventType,
        origins: set[NodeState],
    ) -> None:
        if node.state not in origins:
            return
        ready = node.key in self._was_ready
        await self._state_writer.move(
            ref,
            NodeState.READY if ready else NodeState.RUNNING,
            event=kind,
            operation=self._causes.get(node.key, ""),
            data=_facts(event),
            unless=set(NodeState) - origins,
        )
        self._was_ready.discard(node.key)
        if not ready:
            self.boots_again(ref)

    async def _responsive(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        if node.state is not NodeState.UNRESPONSIVE:
            return
        found = await self._nodes.query(node.key)
        if found is RunState.RUNNING:
            await self._running_again(
                ref, node, event, EventType.NODE_RESPONSIVE, {NodeState.UNRESPONSIVE}
            )
            return
        if found is RunState.SHUTDOWN:
            self._end_powered_off(node, "")
            return
        if found is RunState.PANICKED:
            await self._panicked(ref, event)
            return
        await self._state_writer.move(
            ref,
            NodeState.PAUSED,
            event=EventType.NODE_RESPONSIVE,
            unless=set(NodeState) - {NodeState.UNRESPONSIVE},
        )

    def _end_powered_off(self, node: NodeRecord, when: str) -> None:
        """End a QEMU that holds a guest which powered off (-action shutdown=pause).

        The state is written when the process has ended, so that nobody starts the node before.
        """
        self.powered_off(node.key, when)
        if node.state not in _OWNED:
            # Ending it must not hold up the events of the other machines.
            self._spawn(lambda: self._nodes.kill(node.key))

    async def _exited(self, event: GuestEvent) -> None:
        node = await self._inventory.node_by_key(event.key)
        if node is None or node.process is None:
            return
        ref = NodeRef(node.lab, node.name)
        late = event.key in self._stuck
        self._stuck.discard(event.key)
        if late and node.state is NodeState.STOPPING:
            self._powered_off.pop(event.key, None)
            await self._state_writer.move(
                ref,
                NodeState.STOPPED,
                reason="its QEMU ended late",
                data={**_facts(event), "cause": "requested"},
                unless=set(NodeState) - {NodeState.STOPPING},
                process=None,
            )
            return
        if event.key in self._powered_off:
            when = self._powered_off[event.key]
            await self._state_writer.move(
                ref,
                NodeState.STOPPED,
                reason=f"the guest powered off {when}".rstrip(),
                data={**_facts(event), "cause": "guest-poweroff"},
                unless=_OVER,
                process=None,
            )
            self._powered_off.pop(event.key, None)
            return
        if node.state in _OVER:
            return  # an operation ends it: nobody need wait for a transaction without a change
        await self._state_writer.move(
            ref,
            NodeState.CRASHED,
            reason=str(event.data.get("reason") or "its QEMU ended unexpectedly"),
            data=event.data,
            unless=_OVER,
            process=None,
        )

    def boots_again(self, ref: NodeRef) -> None:
        """Ask for a new watch of a node that runs and is not known to be ready."""
        self._boots.append(ref)
        self._rewatch.set()

    async def boots(self) -> list[NodeRef]:
        """Return the nodes that run again and have not said yet that they are ready."""
        await self._rewatch.wait()
        self._rewatch.clear()
        found, self._boots = self._boots, []
        return found

    async def drain(self) -> None:
        """Wait until every event so far was handled."""
        await self._queue.join()

    async def close(self) -> None:
        """End the tasks of the watcher."""
        await cancel_all(self._tasks)


def _facts(event: GuestEvent) -> dict[str, object]:
    """Return what an event of labd hands on of QEMU's: its data and its own timestamp."""
    return {**event.data, "qemu_time": event.time}
