"""Guest events become moves of nodes. One worker keeps their order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from labd.engine.journal import Journal
from labd.engine.ports import Hypervisor, Inventory
from labd.model.errors import LabdError
from labd.model.events import EventType, Happening
from labd.model.machine import GuestEvent, GuestEventKind, RunState
from labd.model.names import NodeRef
from labd.model.records import NodeRecord
from labd.model.states import NodeState

log = logging.getLogger(__name__)

_K = GuestEventKind
_OWNED = {NodeState.STARTING, NodeState.STOPPING}  # an operation has the node in its hands
_LIVE = {NodeState.RUNNING, NodeState.READY}
_PLAIN = {_K.WATCHDOG: EventType.NODE_WATCHDOG, _K.IO_ERROR: EventType.NODE_IO_ERROR}


class Watcher:
    """Hears the hypervisor, and writes what happened to nodes on their own account."""

    def __init__(self, inventory: Inventory, hypervisor: Hypervisor, journal: Journal) -> None:
        self._inventory = inventory
        self._hypervisor = hypervisor
        self._journal = journal
        self._queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._off: dict[str, asyncio.Event] = {}
        self._ended: dict[str, GuestEvent] = {}
        self._was_ready: set[str] = set()
        self._causes: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._boots: list[NodeRef] = []
        self._rewatch = asyncio.Event()
        hypervisor.listen(self._queue.put_nowait)

    # what operations tell the watcher

    def expect(self, key: str) -> None:
        """Forget earlier ends of a machine that is about to be launched."""
        self._ended.pop(key, None)
        self._off[key] = asyncio.Event()
        self._was_ready.discard(key)

    def off(self, key: str) -> asyncio.Event:
        """Return the event that is set when the guest powers off or QEMU ends."""
        return self._off.setdefault(key, asyncio.Event())

    def caused_by(self, key: str, operation: str) -> None:
        """Let the next moves of a machine carry the operation that caused them."""
        self._causes[key] = operation

    def drop(self, key: str) -> None:
        """Forget a machine."""
        for table in (self._ended, self._off, self._causes):
            table.pop(key, None)
        self._was_ready.discard(key)

    async def settle_early_end(self, key: str) -> None:
        """Write the end of a machine that died while its start was being written."""
        event = self._ended.get(key)
        if event is not None:
            await self._exited(event)

    # the worker

    async def run(self) -> None:
        """Handle events for ever."""
        while True:
            event = await self._queue.get()
            try:
                await self._handle(event)
            except LabdError as error:
                log.warning("event %s of machine %s: %s", event.kind, event.key, error)
            finally:
                self._queue.task_done()

    async def _handle(self, event: GuestEvent) -> None:
        node = await self._inventory.node_by_key(event.key)
        if node is None:
            return
        ref = NodeRef(node.lab, node.name)
        match event.kind:
            case _K.PAUSED:
                await self._paused(ref, node, event)
            case _K.RESUMED:
                await self._running_again(
                    ref, node, event, EventType.NODE_RESUMED, NodeState.PAUSED
                )
            case _K.RESPONSIVE:
                await self._responsive(ref, node, event)
            case _K.RESET:
                await self._was_reset(ref, node, event)
            case _K.POWERED_OFF:
                self._powered_off(ref, node, event)
            case _K.PANICKED:
                await self._journal.move(
                    ref,
                    NodeState.PANICKED,
                    reason="the guest panicked",
                    data=_facts(event),
                    unless=set(NodeState) - _LIVE - {NodeState.PAUSED},
                )
            case _K.UNRESPONSIVE:
                if node.state is NodeState.READY:
                    self._was_ready.add(node.key)
                await self._journal.move(
                    ref,
                    NodeState.UNRESPONSIVE,
                    reason="QEMU does not answer",
                    data=event.data,
                    unless=set(NodeState) - _LIVE - {NodeState.PAUSED},
                )
            case _K.EXITED:
                await self._exited(event)
            case _K.WATCHDOG | _K.IO_ERROR:
                await self._tell(_PLAIN[event.kind], ref, node, event)
            case _K.AGENT_OPENED:
                log.debug("agent of %s opened its port", ref)

    async def _tell(
        self, kind: EventType, ref: NodeRef, node: NodeRecord, event: GuestEvent
    ) -> None:
        await self._journal.tell(
            Happening(
                type=kind,
                lab=ref.lab,
                node=ref.node,
                operation=self._causes.pop(node.key, ""),
                data=_facts(event),
            )
        )

    async def _was_reset(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        await self._tell(EventType.NODE_RESET, ref, node, event)
        if node.state is not NodeState.READY:
            return
        await self._journal.move(
            ref, NodeState.RUNNING, reason="it was reset", unless=set(NodeState) - {NodeState.READY}
        )
        self.boots_again(ref)

    async def _paused(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        if node.state not in _LIVE:
            return
        if node.state is NodeState.READY:
            self._was_ready.add(node.key)
        await self._journal.move(
            ref,
            NodeState.PAUSED,
            operation=self._causes.pop(node.key, ""),
            data=_facts(event),
            unless=set(NodeState) - _LIVE,
        )

    async def _running_again(
        self,
        ref: NodeRef,
        node: NodeRecord,
        event: GuestEvent,
        kind: EventType,
        origin: NodeState,
    ) -> None:
        if node.state is not origin:
            return
        ready = node.key in self._was_ready
        self._was_ready.discard(node.key)
        await self._journal.move(
            ref,
            NodeState.READY if ready else NodeState.RUNNING,
            event=kind,
            operation=self._causes.pop(node.key, ""),
            data=_facts(event),
            unless=set(NodeState) - {origin},
        )
        if not ready:
            self.boots_again(ref)

    async def _responsive(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        if node.state is not NodeState.UNRESPONSIVE:
            return
        if await self._hypervisor.query(node.key) is RunState.RUNNING:
            await self._running_again(
                ref, node, event, EventType.NODE_RESPONSIVE, NodeState.UNRESPONSIVE
            )
        else:
            await self._journal.move(
                ref,
                NodeState.PAUSED,
                event=EventType.NODE_RESPONSIVE,
                unless=set(NodeState) - {NodeState.UNRESPONSIVE},
            )

    def _powered_off(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        self.off(node.key).set()
        if node.state in _OWNED:
            return
        # QEMU holds the machine still (-action shutdown=pause); ending it must not hold up
        # the events of the other machines.
        task = asyncio.create_task(self._end_powered_off(ref, node, event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_powered_off(self, ref: NodeRef, node: NodeRecord, event: GuestEvent) -> None:
        await self._journal.move(
            ref,
            NodeState.STOPPED,
            reason="the guest powered off",
            data={**_facts(event), "cause": "guest-poweroff"},
            unless={*_OWNED, NodeState.STOPPED},
            process=None,
        )
        await self._hypervisor.kill(node.key)

    async def _exited(self, event: GuestEvent) -> None:
        self.off(event.key).set()
        self._ended[event.key] = event
        node = await self._inventory.node_by_key(event.key)
        if node is None or node.process is None:
            return
        why = str(event.data.get("reason") or "its QEMU ended unexpectedly")
        await self._journal.move(
            NodeRef(node.lab, node.name),
            NodeState.CRASHED,
            reason=why,
            data=event.data,
            unless={*_OWNED, NodeState.STOPPED, NodeState.CRASHED},
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
        """Return when every event so far was handled."""
        await self._queue.join()

    async def close(self) -> None:
        """End the tasks of the watcher."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _facts(event: GuestEvent) -> dict[str, object]:
    """Return what an event of labd hands on of QEMU's: its data and its own timestamp."""
    return {**event.data, "qemu_time": event.time}
