"""The work of a fork: a whole lab from a checkpoint, restored and let go together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from types import TracebackType

from labd.core import chains
from labd.core.adapters import Adapters
from labd.core.boot_slots import LoadQueue
from labd.core.gather import gather_all
from labd.core.resolve import Sized
from labd.core.snapshot import LabSnapshot, SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.core.taps import close_taps
from labd.features.labs import Converger, NodeRunner
from labd.features.links import LinkService
from labd.host.threads import quick
from labd.model.checkpoints import CheckpointRecord, SavedNode
from labd.model.cloudinit import logins
from labd.model.errors import GuestFailed, InputError, LabdError, StorageFailed
from labd.model.machine import MachineSpec
from labd.model.names import NodeRef
from labd.model.process import ProcessId
from labd.model.records import NodeRecord, OperationRecord
from labd.model.request_kinds import ForkRequest
from labd.model.specs import LabSpec
from labd.model.states import NODE_ALIVE, NodeState

log = logging.getLogger(__name__)

_AGENT = 60.0  # seconds that a woken guest's agent has for one command
_POLL = 0.5  # seconds between two questions whether it is there
_AGENT_SHARE = 4  # guests that are told at one time what they are
_LET_GO = {NodeState.RUNNING, NodeState.READY}
_UNTOLD = _LET_GO | {NodeState.PAUSED, NodeState.UNRESPONSIVE}

_Undo = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None], Awaitable[None]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedNode:
    """One node on its way.

    Attributes:
        record: As it was when the way began.
        saved: What it starts from.
        sized: As the template has it.
        machine: That it shall be.
        seed: Files of its CD for cloud-init.
    """

    record: NodeRecord
    saved: SavedNode
    sized: Sized
    machine: MachineSpec
    seed: Mapping[str, bytes]

    @property
    def ref(self) -> NodeRef:
        """Its address."""
        return NodeRef(self.record.lab, self.record.name)


def refusal(record: CheckpointRecord, node: SavedNode, fingerprint: str) -> str:
    """Return why a machine does not fit what was saved; empty when it does. Pure."""
    if fingerprint == node.fingerprint:
        return ""
    return (
        f"checkpoint {record.name} cannot be used: node {node.name} would get another machine than "
        "the one that was saved (its profile was changed, or this labd is another version); save "
        "it again from a booted lab"
    )


class Forking:
    """Starts all nodes of a lab from a checkpoint."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        loader: SnapshotLoader,
        converger: Converger,
        runner: NodeRunner,
        links: LinkService,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._loader = loader
        self._converger = converger
        self._runner = runner
        self._links = links
        self._telling = asyncio.Semaphore(_AGENT_SHARE)
        self._loads = LoadQueue()

    async def work(
        self,
        operation: OperationRecord,
        record: CheckpointRecord,
        only: Collection[str] | None = None,
    ) -> None:
        """Start what does not run yet; returns when every guest knows what it is.

        Args:
            operation: That this is done for.
            record: Where the nodes begin.
            only: Names of the nodes to start; None for all.

        Raises:
            LabdError: The first failure; nodes that this call started are stopped again.
        """
        async with AsyncExitStack() as undo:
            snapshot = await self._loader.snapshot(operation.lab)
            await self._converger.prepare_ground(snapshot, operation)
            await self._adapters.checkpoints.verify(record)
            with self._loads.loading():
                untold = await self._have_run(operation, record, snapshot, only, undo)
            # What one guest is told costs more than another's start: those come first.
            await self._loads.quiet()
            await gather_all(self._tell(operation, snapshot, copy) for copy in untold)
            undo.pop_all()
        await self._state_writer.settle(operation.lab, operation.id)

    async def _have_run(
        self,
        operation: OperationRecord,
        record: CheckpointRecord,
        snapshot: LabSnapshot,
        only: Collection[str] | None,
        undo: AsyncExitStack,
    ) -> list[ForkedNode]:
        """Have all nodes run; return those that may not know yet what they are."""
        due = [
            node
            for node in snapshot.nodes.values()
            if node.state not in NODE_ALIVE and (only is None or node.name in only)
        ]
        cold = [self.copy_of(record, snapshot, node) for node in due]
        warm = [self.copy_of(record, snapshot, node) for node in _loaded(snapshot, only)]
        # An earlier daemon let these go. The operation has not ended, so nobody knows what they
        # were told: all of it can be told twice.
        earlier = [
            self.copy_of(record, snapshot, node)
            for node in snapshot.nodes.values()
            if node.state in _UNTOLD and (only is None or node.name in only)
        ]
        copies = [*cold, *warm]
        for copy in [*earlier, *copies]:
            undo.push_async_exit(self._taking_back(operation, copy))
        taken = await asyncio.gather(*(self._take(operation, copy) for copy in warm))
        cold += [copy for copy, fits in zip(warm, taken, strict=True) if not fits]
        await self._restore(operation, record, snapshot, cold)
        # All or none: a lab whose clocks began at different times has broken connections.
        await gather_all(self._adapters.nodes.resume(copy.machine.key) for copy in copies)
        await gather_all(self._woken(operation, copy) for copy in copies)
        await gather_all(self._awake(copy) for copy in earlier)
        untold = [*copies, *earlier]
        await gather_all(self._announce(copy) for copy in untold)
        return untold

    def _taking_back(self, operation: OperationRecord, copy: ForkedNode) -> _Undo:
        """Return what takes back the start of a copy.

        When labd stops, one that was let go runs on, as after a death: the next daemon tells it
        what it is. See `_have_run`.
        """

        async def take_back(
            kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
        ) -> None:
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                node = await self._adapters.inventory.node(copy.ref.lab, copy.ref.node)
                if node is not None and node.state in _UNTOLD:
                    return
            await self._runner.abandon(copy.ref, copy.machine, operation.id)

        return take_back

    async def _awake(self, copy: ForkedNode) -> None:
        """Wait until a guest that an earlier daemon let go can hear what it is.

        Raises:
            GuestFailed: It stands still. It would take itself for the source when it is resumed.
        """
        hung = NodeState.UNRESPONSIVE
        state = hung
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGENT):
                node = await self._state_writer.wait_node(copy.ref, set(NodeState) - {hung})
                state = node.state if node is not None else NodeState.STOPPED
        if state not in _LET_GO:
            raise GuestFailed(
                f"node {copy.ref} is {state} and cannot be told that it is a copy; ask for it again"
            )

    async def _announce(self, copy: ForkedNode) -> None:
        try:
            await self._adapters.nodes.snapshots(copy.machine.key).announce(copy.machine.key)
        except LabdError as error:
            log.warning("node %s: %s", copy.ref, error)

    async def preflight(self, record: CheckpointRecord, only: Collection[str]) -> None:
        """Raise StorageFailed unless the files of some nodes are whole; they are loaded then.

        Raises:
            StorageFailed: One is not.
        """
        await self._adapters.checkpoints.verify(record)
        for saved in record.nodes:
            if saved.name in only:
                incoming = await self._adapters.checkpoints.incoming(record, saved)
                os.close(incoming.ram)
                os.close(incoming.state)

    def copy_of(
        self, record: CheckpointRecord, snapshot: LabSnapshot, node: NodeRecord
    ) -> ForkedNode:
        """Return the machine of a copy.

        Raises:
            InputError: It would not be the machine that was saved.
        """
        saved = next(item for item in record.nodes if item.name == node.name)
        sized = snapshot.sized[node.name]
        # Built from the spec: what a manifest says of files may have come from another host.
        fresh = self._loader.machine(snapshot, node, kvm=saved.kvm, cpu=saved.cpu)
        layer = self._adapters.checkpoints.layer
        machine = replace(
            fresh,
            disks=chains.forked(fresh.disks, saved.disks, layer),
            machine_type=saved.machine_type,
            balloon=saved.balloon,
        )
        why = refusal(record, saved, self._adapters.nodes.snapshots(machine).fingerprint(machine))
        if why:
            raise InputError(why)
        seed = self._loader.seed(snapshot, node)
        return ForkedNode(record=node, saved=saved, sized=sized, machine=machine, seed=seed)

    async def _take(self, operation: OperationRecord, copy: ForkedNode) -> bool:
        """Take a machine that a pool has loaded; tell whether it is what the copy shall be.

        One that has ended, or was made of something that has changed since, is ended.
        """
        key = copy.machine.key
        self._runner.expect(key)
        self._adapters.nodes.rename(copy.machine)
        try:
            if copy.record.machine == copy.machine:
                await self._adapters.nodes.snapshots(key).loaded(key)
                await self._runner.make_seed(copy.machine, copy.seed)
                await self._carry(copy)
                return True
            log.info("%s is loaded anew: the pool's is another machine by now", copy.ref)
        except LabdError as error:
            log.warning("%s is loaded anew: %s", copy.ref, error)
        await self._runner.abandon(copy.ref, copy.machine, operation.id)
        return False

    async def _restore(
        self,
        operation: OperationRecord,
        record: CheckpointRecord,
        snapshot: LabSnapshot,
        copies: list[ForkedNode],
    ) -> None:
        """Load every node, its CPUs stopped."""
        taps = await self._adapters.networks.open_taps(
            snapshot.network, [copy.record.key for copy in copies]
        )
        try:
            await self._links.apply_links(snapshot.lab.name, fresh=True)
            await gather_all(self._load(operation, record, copy, taps) for copy in copies)
        finally:
            close_taps(taps)

    async def _load(
        self,
        operation: OperationRecord,
        record: CheckpointRecord,
        copy: ForkedNode,
        taps: dict[str, dict[str, int]],
    ) -> None:
        machine = copy.machine
        self._runner.expect(machine.key)
        await self._state_writer.move(
            copy.ref,
            NodeState.STARTING,
            operation=operation.id,
            machine=machine,
            process=None,
            starts=copy.record.starts + 1,
        )
        process = await self.launch(record, copy, taps)
        # The commit has the time in which the state is loaded; CPUs run long after it.
        await gather_all(
            [
                self._note_process(copy.ref, process),
                self._adapters.nodes.snapshots(machine.key).loaded(machine.key),
            ]
        )
        await self._carry(copy)

    async def _note_process(self, ref: NodeRef, process: ProcessId) -> None:
        await self._state_writer.update(
            ref, process=process, unless=set(NodeState) - {NodeState.STARTING}
        )

    async def _carry(self, copy: ForkedNode) -> None:
        """Switch carriers: a card remembers its own, and the copy's links are its template's."""
        await self._links.apply_carrier(copy.ref, copy.machine.key, whole=True)

    async def launch(
        self, record: CheckpointRecord, copy: ForkedNode, taps: dict[str, dict[str, int]]
    ) -> ProcessId:
        """Make the files of a copy and start it; its state is being loaded when this returns.

        Args:
            record: Where it begins.
            copy: What it shall be.
            taps: Machine key -> NIC -> descriptor; those of this machine are taken out.

        Raises:
            LabdError: It could not be started.
        """
        await self._make_files(record, copy)
        incoming = await self._adapters.checkpoints.incoming(record, copy.saved)
        try:
            return await self._adapters.nodes.snapshots(copy.machine).launch(
                copy.machine, taps.pop(copy.machine.key, {}), incoming
            )
        finally:
            os.close(incoming.ram)
            os.close(incoming.state)

    async def _make_files(self, record: CheckpointRecord, copy: ForkedNode) -> None:
        """Make the disks' tops and the small files, all anew: an earlier try may have left some."""
        folder = copy.machine.folder
        await self._adapters.storage.discard(copy.machine.key)
        try:
            await quick(folder.mkdir, mode=0o700, parents=True)
        except OSError as error:
            raise StorageFailed(f"cannot make {folder.name}: {error.strerror}") from error
        for disk in copy.machine.disks:
            if chains.is_written(disk):
                await self._adapters.storage.child(disk.ref, disk.backing[0][0])
        for name, _ in copy.saved.files:
            await self._adapters.checkpoints.copy_file(
                record.key, f"{copy.saved.name}.{name}", folder / name
            )
        # Read at a start only: one that starts anew is told that it is another machine.
        await self._runner.make_seed(copy.machine, copy.seed)

    async def _woken(self, operation: OperationRecord, copy: ForkedNode) -> None:
        ready = copy.saved.ready and not copy.sized.node.on_fork
        process = await self._state_writer.node(copy.ref)
        await self._state_writer.move(
            copy.ref,
            NodeState.RUNNING,
            operation=operation.id,
            also=(NodeState.READY,) if ready else (),
            data={
                "accel": "kvm" if copy.machine.kvm else "tcg",
                "pid": process.process.pid if process.process else None,
                "forked": True,
            },
        )
        await self._runner.started(copy.machine.key)
        if not copy.saved.ready and not copy.sized.node.on_fork:
            self._runner.boots_on(copy.ref)

    async def _booted(self, copy: ForkedNode) -> None:
        """Wait until the agent of a copy answers whose source was saved while it booted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(copy.sized.ready.timeout):
                key = copy.machine.key
                agents = self._adapters.nodes.agents(key)
                while not await agents.agent_ping(key):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_POLL)

    async def _tell(
        self, operation: OperationRecord, snapshot: LabSnapshot, copy: ForkedNode
    ) -> None:
        """Let the guest know that it is a copy: its clock, its keys, and what the template says.

        Raises:
            GuestFailed: A command of the template failed.
        """
        key = copy.machine.key
        boots = not copy.saved.ready and bool(copy.sized.node.on_fork)
        if boots:
            await self._booted(copy)
        async with self._telling:
            try:
                if copy.saved.agent or boots:
                    await self._adapters.nodes.snapshots(key).set_clock(key)
                    keys = (snapshot.key.public, *self._adapters.authorized_keys)
                    await self._adapters.nodes.snapshots(key).authorize(
                        key, logins(copy.sized.node, keys)
                    )
            except LabdError as error:
                log.warning("node %s: %s", copy.ref, error)
            for argv in copy.sized.node.on_fork:
                await self._command(copy, argv, _environment(operation, snapshot.lab.spec))
        if boots:
            self._runner.boots_on(copy.ref)
        elif copy.sized.node.on_fork:
            others = set(NodeState) - {NodeState.RUNNING}
            await self._state_writer.move(
                copy.ref, NodeState.READY, operation=operation.id, unless=others
            )

    async def _command(
        self, copy: ForkedNode, argv: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        words = ["env", *(f"{name}={value}" for name, value in environment.items()), *argv]
        try:
            result = await self._adapters.nodes.agents(copy.machine.key).agent_exec(
                copy.machine.key, words, _AGENT
            )
        except GuestFailed:
            await self._adapters.nodes.query(copy.machine.key)  # its end is the better reason
            raise
        if result.status != 0:
            said = result.stderr.decode(errors="replace").strip().splitlines()
            raise GuestFailed(
                f"on_fork of node {copy.ref}: {argv[0]!r} ended with {result.status}"
                + (f": {said[-1][:200]}" if said else "")
            )


def _loaded(snapshot: LabSnapshot, only: Collection[str] | None) -> list[NodeRecord]:
    """Return the nodes that came from a pool: loaded already, and not let go yet.

    Those of an earlier daemon are stopped by now; see `Recovery`.
    """
    return [
        node
        for node in snapshot.nodes.values()
        if node.state is NodeState.STARTING
        and node.process is not None
        and (only is None or node.name in only)
    ]


def _environment(operation: OperationRecord, spec: LabSpec) -> dict[str, str]:
    """Return what on_fork commands find in their environment."""
    request = operation.request
    settings = request.settings if isinstance(request, ForkRequest) else {}
    values = {**spec.parameters, **settings}
    names = {key: f"LABD_{key.upper().replace('-', '_')}" for key in values}
    return {**{names[key]: str(values[key]) for key in values}, "LABD_LAB": operation.lab}
