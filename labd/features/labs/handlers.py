"""What accepted operations do to labs, and how they are taken back when they fail.

Each can be done again from its begin, by the next daemon too: it looks at what is, not at how far
it was. An operation that failed and is being undone is marked so before the undoing begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace

from labd.core.adapters import Adapters
from labd.core.failure_context import with_failure_context
from labd.core.gather import gather_all
from labd.core.operations import Operations
from labd.core.state_writer import StateWriter
from labd.features.labs.converge import Converger
from labd.features.labs.teardown import Teardown
from labd.features.labs.watch import Watcher
from labd.inventory.port import Transaction
from labd.model.errors import GuestFailed, LabdError, WorldError
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.records import LabRecord, OperationKind, OperationRecord, Wanted
from labd.model.request_kinds import (
    DownRequest,
    EditRequest,
    RestartRequest,
    Starting,
    StartRequest,
    StopRequest,
    Telling,
    UpRequest,
)
from labd.model.states import LabState, NodeState

log = logging.getLogger(__name__)

_K = OperationKind
_CHANGES = {_K.UP, _K.EDIT}
_ENDED = {NodeState.CRASHED, NodeState.STOPPED}
_SEEN_WITHIN = 5.0  # seconds for the watcher to hear what QEMU was told


class OperationHandlers:
    """The works of `up`, `down`, `destroy` and the actions on nodes.

    Attributes:
        destroyed: Each is called after a lab was destroyed.
    """

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        converger: Converger,
        teardown: Teardown,
        watcher: Watcher,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._converger = converger
        self._teardown = teardown
        self._watcher = watcher
        self.destroyed: list[Callable[[], Awaitable[None]]] = []
        operations.register(
            {
                _K.UP: self._up,
                _K.EDIT: self._edit,
                _K.DOWN: self._down,
                _K.DESTROY: self._destroy,
                _K.START: self._start,
                _K.STOP: self._stop,
                _K.RESTART: self._restart,
                _K.PAUSE: self._pause,
                _K.RESUME: self._resume,
                _K.RESET: self._reset,
            }
        )

    # starting, and taking back

    async def _up(self, operation: OperationRecord) -> None:
        """Bring it up; on failure take back what this operation did, unless it shall be kept."""
        limit = operation.request_as(UpRequest).timeout

        async def work() -> None:
            scope = asyncio.timeout(limit)
            try:
                async with scope:
                    await self._converger.apply(operation.lab, operation)
            except TimeoutError:
                if not scope.expired():
                    raise
                if await self._is_up(operation.lab):
                    return  # the time was over as the last of it was committed
                raise GuestFailed(
                    f"lab {operation.lab} was not up within {limit:g} s", timed_out=True
                ) from None

        await self.or_undo(operation, work)

    async def _is_up(self, name: str) -> bool:
        """True if a lab is all that its spec says, by what is committed."""
        lab = await self._state_writer.lab(name)
        return lab.state is LabState.RUNNING and lab.previous is None

    async def _edit(self, operation: OperationRecord) -> None:
        """Bring a lab to its edited spec; one that is down stays so."""
        request = operation.request_as(EditRequest)

        async def work() -> None:
            lab = await self._state_writer.lab(operation.lab)
            if lab.wanted is Wanted.RUNNING:
                await self._converger.apply(operation.lab, operation, request.starts)
            else:
                await self._teardown.remove_left_out(operation.lab, operation, networks=False)
                await self._state_writer.forget_previous(operation.lab)

        await self.or_undo(operation, work)

    async def _start(self, operation: OperationRecord) -> None:
        starts = operation.request_as(StartRequest).starts
        await self.or_undo(
            operation, lambda: self._converger.bring_up(operation.lab, operation, starts)
        )

    async def _restart(self, operation: OperationRecord) -> None:
        request = operation.request_as(RestartRequest)

        async def work() -> None:
            await self._stop_nodes(operation, request)
            await self._converger.bring_up(operation.lab, operation, request.starts)

        await self.or_undo(operation, work)

    async def or_undo(
        self, operation: OperationRecord, work: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        """Work, and when that fails take it back and raise why.

        Nothing is taken back for a `down` or `destroy` that did not want to wait: they do that.

        Raises:
            LabdError: Why it failed; that the undoing failed too is only logged.
        """
        request = operation.request_as(Starting)
        if request.undoing:
            await self._undo(operation)
            raise WorldError(f"{request.undoing} (taken back after a restart of labd)")
        try:
            await self._operations.breakable(operation, work())
        except LabdError as failure:
            if self._operations.superseded(operation):
                raise
            error = await with_failure_context(self._adapters, operation, failure)
            try:
                if await self._write_failed(operation, error):
                    await self._undo(operation)
            except LabdError as another:
                log.warning(
                    "what %s did to lab %s could not be taken back: %s",
                    operation.id,
                    operation.lab,
                    another,
                )
            raise error from failure

    async def _write_failed(self, operation: OperationRecord, error: LabdError) -> bool:
        """Write the intent of the undoing; tell whether there is anything to undo."""
        request = operation.request_as(Starting)
        async with self._adapters.inventory.transaction() as tx:
            lab = await self._state_writer.lab(operation.lab)
            if isinstance(request, UpRequest) and request.keep:
                await self._state_writer.put_lab_state(
                    tx, lab, LabState.FAILED, operation.id, error.message
                )
                return False
            await self._operations.mark_undoing(tx, operation, error)
            if request.makes_lab:
                lab = replace(lab, wanted=Wanted.DESTROYED)
                await self._state_writer.put_lab_state(tx, lab, LabState.DESTROYING, operation.id)
            else:
                await self._restore(tx, lab, operation)
        return True

    async def _restore(self, tx: Transaction, lab: LabRecord, operation: OperationRecord) -> None:
        """Write spec and intent as they were before the operation."""
        if operation.kind in _CHANGES and lab.previous is not None:
            lab = replace(lab, spec=lab.previous, previous=lab.spec)
            await tx.emit(
                EventDraft(
                    type=EventType.LAB_CHANGED,
                    lab=lab.name,
                    operation=operation.id,
                    data={"template": lab.spec.template},
                )
            )
        was = operation.request_as(Starting).was
        if was is not None:
            lab = replace(lab, wanted=was.lab)
            for node in await self._adapters.inventory.nodes(lab.name):
                wanted = was.nodes.get(node.name)
                if wanted is not None:
                    await tx.put_node(replace(node, wanted=wanted))
        await tx.put_lab(lab)

    async def _undo(self, operation: OperationRecord) -> None:
        name = operation.lab
        request = operation.request_as(Starting)
        if request.makes_lab:
            await self._teardown.destroy(name, operation)
            return
        before = set(request.before)
        await self._teardown.undo_starts(name, operation, before=before, only=request.only)
        lab = await self._state_writer.lab(name)
        if operation.kind in _CHANGES and lab.previous is not None:
            try:
                await self._converger.apply(name, operation, request.only)
            except LabdError as error:
                log.warning("lab %s could not be taken back to its old spec: %s", name, error)
                await self._teardown.remove_left_out(name, operation)
                await self._state_writer.forget_previous(name)
        if lab.wanted is Wanted.STOPPED:
            await self._teardown.take_down(name, operation, force=True, grace=0)
        await self._state_writer.settle(name, operation.id)

    # ending

    async def _down(self, operation: OperationRecord) -> None:
        request = operation.request_as(DownRequest)
        await self._teardown.take_down(
            operation.lab, operation, force=request.force, grace=request.grace
        )

    async def _destroy(self, operation: OperationRecord) -> None:
        await self._teardown.destroy(operation.lab, operation)
        for tidy in self.destroyed:
            await tidy()

    async def _stop(self, operation: OperationRecord) -> None:
        await self._stop_nodes(operation, operation.request_as(StopRequest))

    async def _stop_nodes(
        self, operation: OperationRecord, request: StopRequest | RestartRequest
    ) -> None:
        await self._teardown.stop_nodes(
            operation.lab, request.nodes, operation, force=request.force, grace=request.grace
        )

    # what QEMU is told

    async def _pause(self, operation: OperationRecord) -> None:
        await self._each(operation, self._adapters.nodes.pause, {NodeState.PAUSED})

    async def _resume(self, operation: OperationRecord) -> None:
        back = {NodeState.RUNNING, NodeState.READY}
        await self._each(operation, self._adapters.nodes.resume, back)

    async def _each(
        self,
        operation: OperationRecord,
        call: Callable[[str], Awaitable[None]],
        states: set[NodeState],
    ) -> None:
        """Call the driver of each node, and wait until the watcher has seen the effect.

        Raises:
            GuestFailed: It has not.
        """

        async def one(name: str) -> None:
            ref = NodeRef(operation.lab, name)
            node = await self._state_writer.node(ref)
            with self._watcher.caused_by(node.key, operation.id):
                await call(node.key)
                try:
                    async with asyncio.timeout(_SEEN_WITHIN):
                        await self._state_writer.wait_node(ref, states | _ENDED)
                except TimeoutError:
                    raise GuestFailed(
                        f"QEMU did not tell that it did {operation.kind} {ref}; "
                        f"`lab status {ref.lab}` shows how it is"
                    ) from None

        await gather_all(one(name) for name in operation.request_as(Telling).nodes)

    async def _reset(self, operation: OperationRecord) -> None:
        async def one(name: str) -> None:
            node = await self._state_writer.node(NodeRef(operation.lab, name))
            with self._watcher.caused_by(node.key, operation.id):
                await self._adapters.nodes.reset(node.key)
                if node.state in {NodeState.PANICKED, NodeState.PAUSED}:
                    await self._adapters.nodes.resume(node.key)
                await self._watcher.drain()

        await gather_all(one(name) for name in operation.request_as(Telling).nodes)
