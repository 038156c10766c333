"""The first copy of a class from a template: booted, saved as the class's checkpoint, and gone."""

from __future__ import annotations

import logging
from dataclasses import replace

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.features.checkpoints import CheckpointService
from labd.features.classes.plan import FirstAct
from labd.features.labs import Labs
from labd.inventory.port import Transaction
from labd.model.checkpoints import SaveMode
from labd.model.classes import ClassRecord
from labd.model.errors import Conflict, InUse, NotFound
from labd.model.records import OperationKind, OperationRecord, Wanted
from labd.model.states import OperationState

log = logging.getLogger(__name__)

_BOOT = 1800.0  # seconds that the first copy has until it is ready
_LIMIT = 600.0  # seconds for the other steps


class ClassPreparation:
    """Does what `classes.plan_first` says, a step at a time; each is right after any death."""

    def __init__(
        self, adapters: Adapters, operations: Operations, labs: Labs, checkpoints: CheckpointService
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._labs = labs
        self._checkpoints = checkpoints

    async def saved(self, record: ClassRecord) -> bool:
        """True if the checkpoint of a class is there."""
        found = await self._adapters.inventory.checkpoints()
        return any(item.key == record.checkpoint for item in found)

    async def require_names(self, record: ClassRecord) -> None:
        """Raise Conflict unless the names are free that a new class from a template needs.

        Raises:
            Conflict: There is such a lab or checkpoint.
        """
        if await self._adapters.inventory.lab(record.name) is not None:
            raise Conflict(
                f"there is a lab {record.name} already, and the first copy of the class has this "
                "name; choose another name for the class, or destroy the lab"
            )
        if any(item.name == record.source for item in await self._adapters.inventory.checkpoints()):
            raise Conflict(
                f"there is a checkpoint {record.source} already; choose another name for "
                "the class, or remove it"
            )

    async def do(self, record: ClassRecord, act: FirstAct) -> None:
        """Do one step.

        Raises:
            LabdError: It failed.
        """
        if act is FirstAct.UP:
            await self._boot(record)
        elif act is FirstAct.SAVE:
            message = f"the first copy of class {record.name}"
            operation = await self._checkpoints.save(
                record.name,
                record.source,
                mode=SaveMode.STOP,
                message=message,
                key=record.checkpoint,
            )
            await self._ended(operation, _LIMIT)
        elif act is FirstAct.DESTROY:
            kind = OperationKind.DESTROY
            operation = await self._labs.act(kind, record.name, (), force=True, grace=0.0)
            await self._ended(operation, _LIMIT)
        else:
            await self._remove(record)

    async def _boot(self, record: ClassRecord) -> None:
        assert record.spec is not None  # noqa: S101 - others have no first copy

        async def more(_: Transaction) -> None:
            """Do not begin for a class that is not wanted any more."""
            found = {item.name: item for item in await self._adapters.inventory.classes()}
            present = found.get(record.name)
            if present is None or present.wanted is not Wanted.RUNNING:
                raise Conflict(f"class {record.name} shall not run any more")

        operation = await self._labs.up(
            record.name,
            record.spec,
            keep=False,
            force=False,
            timeout=_BOOT,
            more=more,
            key=record.first,
        )
        await self._ended(operation, _BOOT + _LIMIT)

    async def _ended(self, operation: OperationRecord, seconds: float) -> None:
        done = await self._operations.wait(operation.id, seconds)
        if done.state is OperationState.FAILED:
            problem = (done.error or {}).get("message", "it failed")
            raise Conflict(f"the first copy could not be made: {problem}")

    async def _remove(self, record: ClassRecord) -> None:
        """Remove the checkpoint, unless somebody else stands on it: it is left to them then."""
        for item in await self._adapters.inventory.checkpoints():
            if item.key != record.checkpoint:
                continue
            try:
                await self._checkpoints.remove(item.name)
            except NotFound:
                return
            except InUse as error:
                log.warning("checkpoint %s of class %s stays: %s", item.name, record.name, error)
                await self._let_go(record.name)

    async def _let_go(self, name: str) -> None:
        async with self._adapters.inventory.transaction() as tx:
            for record in await self._adapters.inventory.classes():
                if record.name == name:
                    await tx.put_class(replace(record, spec=None))
