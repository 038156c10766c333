"""One node up or down: disks, QEMU, CPUs; each step undone when a later one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from labd.core.adapters import Adapters
from labd.core.resolve import Sized, disk_plans, seed_disk
from labd.core.state_writer import StateWriter
from labd.features.labs.readiness import ReadinessKeeper, is_immediate
from labd.features.labs.watch import Watcher
from labd.features.links import LinkService
from labd.model.errors import LabdError, NodeGone, NodeStuck, WorldError
from labd.model.machine import MachineSpec
from labd.model.names import NodeRef
from labd.model.process import ProcessId
from labd.model.records import NodeRecord
from labd.model.states import NODE_ALIVE, NodeState

log = logging.getLogger(__name__)

_ASKABLE = {NodeState.RUNNING, NodeState.READY, NodeState.STOPPING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that is needed to start one node.

    Attributes:
        taps: Machine key -> NIC -> descriptor, of the whole lab; who makes them closes what no
            machine took out.
        seed: Files of its CD for cloud-init; none when it gets none.
    """

    ref: NodeRef
    namespace: str
    sized: Sized
    machine: MachineSpec
    taps: dict[str, dict[str, int]]
    starts: int
    seed: Mapping[str, bytes] = field(default_factory=dict)


class NodeRunner:
    """Starts and stops single nodes; knows nothing of labs."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        watcher: Watcher,
        readiness: ReadinessKeeper,
        links: LinkService,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._watcher = watcher
        self._readiness = readiness
        self._links = links

    async def start(self, launch: Launch, operation: str) -> None:
        """Build and start a node; its CPUs run when this returns.

        The state and the machine are committed before QEMU exists, and the process before its
        CPUs run, so that a daemon that dies in between leaves nothing that the next one cannot
        find and undo.

        Raises:
            LaunchFailed, StorageFailed, NodeGone, NodeUnresponsive: The node is stopped again.
        """
        ref, machine = launch.ref, launch.machine
        self._watcher.expect(machine.key)
        await self._state_writer.move(
            ref,
            NodeState.STARTING,
            operation=operation,
            machine=machine,
            process=None,
            starts=launch.starts,
        )
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.abandon, ref, machine, operation)
            await self.make_disks(machine, launch.sized)
            await self.make_seed(machine, launch.seed)
            process = await self._adapters.nodes.launch(
                machine,
                launch.taps.pop(machine.key, {}),
                # While QEMU comes up: a commit takes up to 8 ms of those 30 on a busy disk.
                spawned=partial(self._note_process, ref),
            )
            await self._links.apply_carrier(ref, machine.key)
            await self._adapters.nodes.resume(machine.key)
            immediate = is_immediate(launch.sized.ready, launch.sized.node)

            def runs() -> None:
                # Also when the task is cancelled as it commits: it is written that the node runs.
                undo.pop_all()
                if not immediate:
                    self._watch(launch, operation)
                self._watcher.begun(machine.key)

            await self._state_writer.move(
                ref,
                NodeState.RUNNING,
                operation=operation,
                also=(NodeState.READY,) if immediate else (),
                then=runs,
                data={"accel": "kvm" if machine.kvm else "tcg", "pid": process.pid},
            )
        await self._watcher.started(machine.key)

    async def _note_process(self, ref: NodeRef, process: ProcessId) -> None:
        """Write the process of a node that is starting, and of no other: it may be taken back."""
        await self._state_writer.update(
            ref, process=process, unless=set(NodeState) - {NodeState.STARTING}
        )

    def _watch(self, launch: Launch, operation: str) -> None:
        self._readiness.watch(
            launch.ref,
            launch.machine.key,
            launch.namespace,
            launch.sized.node,
            launch.sized.ready,
            operation,
        )

    def expect(self, key: str) -> None:
        """Begin another life of a machine that somebody else launches."""
        self._watcher.expect(key)

    async def started(self, key: str) -> None:
        """Handle what such a machine did until its start was written."""
        await self._watcher.started(key)

    def boots_on(self, ref: NodeRef) -> None:
        """Have a machine that runs, and was not ready, watched until it is."""
        self._watcher.boots_again(ref)

    async def abandon(self, ref: NodeRef, machine: MachineSpec, operation: str) -> None:
        """Take back a start: end the process, and write that the node is stopped."""
        try:
            await self._adapters.nodes.kill(machine.key)
        except NodeStuck as error:
            self._watcher.give_up(machine.key)
            await self.left_stuck(ref, error, operation)
            return
        self._watcher.give_up(machine.key)
        with suppress(LabdError):  # the error that brought us here is the one to tell
            await self._state_writer.move(
                ref,
                NodeState.STOPPED,
                operation=operation,
                reason="its start failed",
                data={"cause": "start-failed"},
                process=None,
            )

    async def left_stuck(self, ref: NodeRef, error: NodeStuck, operation: str = "") -> None:
        """Write that a node is still stopping, and why: the watcher hears when it has ended."""
        with suppress(LabdError):  # the error itself is the one to tell
            await self._state_writer.move(
                ref,
                NodeState.STOPPING,
                operation=operation,
                reason=error.message,
                unless=set(NodeState) - NODE_ALIVE,
            )
            await self._state_writer.update(
                ref, reason=error.message, unless=set(NodeState) - {NodeState.STOPPING}
            )

    async def _end(self, ref: NodeRef, key: str, *, discard: bool = False) -> None:
        """End the process of a node that is stopping; see `Hypervisor.kill`.

        Raises:
            NodeStuck: It does not end; the node stays `stopping` and can be stopped again.
        """
        try:
            await self._adapters.nodes.kill(key, discard=discard)
        except NodeStuck as error:
            await self.left_stuck(ref, error)
            raise

    async def make_disks(self, machine: MachineSpec, sized: Sized) -> None:
        """Make the disks of a machine that are not there yet.

        One that stands on layers of a checkpoint is not made: it has another name by now.

        Raises:
            StorageFailed: No space; what was there before stays.
        """
        storage = self._adapters.storage
        wanted = {disk.ref for disk in machine.disks}
        for plan in disk_plans(sized, machine.key, self._adapters.disk_class):
            if plan.ref not in wanted or await storage.exists(plan.ref):
                continue
            if plan.image is not None:
                await storage.clone(plan.ref, plan.image, plan.size)
            elif plan.size is not None:
                await storage.create(plan.ref, plan.size)

    async def make_seed(self, machine: MachineSpec, files: Mapping[str, bytes]) -> None:
        """Write a machine's CD for cloud-init, if it gets one; what it was told before goes.

        Raises:
            StorageFailed: No space; what was there before stays.
        """
        if files:
            await self._adapters.storage.seed(seed_disk(machine.key), files)

    async def stop(
        self, ref: NodeRef, operation: str, *, force: bool = False, grace: float = 20.0
    ) -> None:
        """Stop a node: ask its guest, wait `grace` seconds, then power off. Disks are kept.

        A node that is found `stopping` is one whose stop an earlier daemon began, or whose QEMU
        could not be ended then; it is asked anew.

        Raises:
            NodeStuck: Its QEMU does not end.
        """
        node = await self._adapters.inventory.node(ref.lab, ref.node)
        if node is None or node.state is NodeState.STOPPED:
            return
        self._readiness.forget(node.key)
        polite = not force and node.state in _ASKABLE
        # It may end by itself at any moment; whoever writes first is right.
        node = await self._state_writer.move(
            ref, NodeState.STOPPING, operation=operation, unless=set(NodeState) - NODE_ALIVE
        )
        if node is None:
            return
        if node.state is not NodeState.STOPPING:
            await self._state_writer.move(
                ref, NodeState.STOPPED, operation=operation, data={"cause": "requested"}
            )
            return
        obeyed = polite and await self._ask(node, grace)
        await self._end(ref, node.key)
        how = "the guest powered off" if obeyed else ("powered off" if polite else "")
        await self._state_writer.move(
            ref,
            NodeState.STOPPED,
            operation=operation,
            reason=how,
            data={"cause": "requested", "graceful": obeyed},
            process=None,
        )

    async def _ask(self, node: NodeRecord, grace: float) -> bool:
        """Ask the guest to power off; tell whether it did within `grace` seconds."""
        off = self._watcher.off(node.key)
        try:
            async with asyncio.timeout(grace):
                await self._adapters.nodes.power_down(node.key)
                await off.wait()
        except NodeGone:
            return True
        except (TimeoutError, WorldError):
            return False
        return True

    async def begin_end(self, lab: str, nodes: Sequence[NodeRecord], operation: str) -> None:
        """Write that nodes of a lab are stopping, so that the end of their QEMUs is no crash.

        In one transaction: a commit for each of 50 nodes took as long as all that followed.
        """
        for node in nodes:
            self._readiness.forget(node.key)
        alive = [node.name for node in nodes if node.state in NODE_ALIVE]
        if alive:
            await self._state_writer.move_all(
                lab,
                alive,
                NodeState.STOPPING,
                operation=operation,
                unless=set(NodeState) - NODE_ALIVE,
            )

    async def end_for_good(self, node: NodeRecord) -> None:
        """End the process of a node that is stopping and is removed next with its disks.

        Raises:
            NodeStuck: It does not end; the node stays `stopping`.
        """
        await self._end(NodeRef(node.lab, node.name), node.key, discard=True)

    async def remove_files(self, nodes: Iterable[NodeRecord]) -> None:
        """Remove every file of nodes whose processes have ended, by one thread (idempotent)."""
        # As they are by now: a node that has started since has a machine.
        now = [await self._adapters.inventory.node_by_key(node.key) or node for node in nodes]
        await self._adapters.nodes.forget(*(n.machine for n in now if n.machine is not None))
        await self._adapters.storage.discard(*(node.key for node in now))
        for node in now:
            self._watcher.drop(node.key)


class Eraser:
    """Removes what nodes leave behind, as they end: a thread at a time takes all that wait.

    While some QEMUs still end, the files of others go. One thread for all of them at the end took
    0.09 s longer for 50 nodes, and two threads for each node cost more CPU time than the files.
    """

    def __init__(self, runner: NodeRunner) -> None:
        self._runner = runner
        self._waiting: list[NodeRecord] = []
        self._turn = asyncio.Lock()
        self.ended: list[NodeRecord] = []

    async def erase(self, node: NodeRecord) -> None:
        """End the process of a node that is stopping, and remove every file of it (idempotent).

        Raises:
            NodeStuck: It does not end; its files stay.
        """
        await self._runner.end_for_good(node)
        self.ended.append(node)
        self._waiting.append(node)
        async with self._turn:
            nodes, self._waiting = self._waiting, []
            if nodes:
                await self._runner.remove_files(nodes)
