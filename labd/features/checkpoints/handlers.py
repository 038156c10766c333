"""What accepted operations of checkpoints do: save, fork, restore.

Each can be done again from its begin, by the next daemon too.
"""

from __future__ import annotations

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.features.checkpoints.forking import Forking
from labd.features.checkpoints.saving import Saving
from labd.features.labs import OperationHandlers, Teardown
from labd.model.checkpoints import CheckpointRecord
from labd.model.errors import NotFound
from labd.model.records import OperationKind, OperationRecord
from labd.model.request_kinds import ForkRequest, RestoreRequest


class CheckpointHandlers:
    """The works of `checkpoint save`, `fork` and `checkpoint restore`."""

    def __init__(
        self,
        adapters: Adapters,
        operations: Operations,
        labs: OperationHandlers,
        teardown: Teardown,
        forking: Forking,
        saving: Saving,
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._labs = labs
        self._teardown = teardown
        self._forking = forking
        operations.register(
            {
                OperationKind.CHECKPOINT: saving.finish,
                OperationKind.FORK: self._fork,
                OperationKind.RESTORE: self._restore,
            }
        )

    async def _checkpoint(self, key: str) -> CheckpointRecord:
        for record in await self._adapters.inventory.checkpoints():
            if record.key == key:
                return record
        raise NotFound("the checkpoint has been removed meanwhile")

    async def _fork(self, operation: OperationRecord) -> None:
        key = operation.request_as(ForkRequest).checkpoint

        async def work() -> None:
            await self._forking.work(operation, await self._checkpoint(key))

        await self._labs.or_undo(operation, work)

    async def _restore(self, operation: OperationRecord) -> None:
        """End what runs, and start it anew from the checkpoint. Can be done again."""
        request = operation.request_as(RestoreRequest)
        record, names = await self._checkpoint(request.checkpoint), request.nodes
        # What runs is ended only when everything that takes its place is known to be whole.
        await self._forking.preflight(record, names)
        await self._teardown.stop_nodes(operation.lab, names, operation, force=True, grace=0)
        await self._operations.breakable(operation, self._forking.work(operation, record, names))
