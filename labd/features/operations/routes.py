"""Operations: accepted requests and their outcome."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import until_closing
from labd.core.operations import Operations
from labd.features.operations import schemas
from labd.model.people import Thing

router = APIRouter(prefix="/operations", tags=["operations"])

OperationsDep = Annotated[Operations, Depends(service(Operations))]

_ALL = 1 << 20


@router.get("")
@requires(Scope.LABS_READ, student=True)
async def list_operations(
    operations: OperationsDep, policy: PolicyDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> schemas.Operations:
    """List the operations that the caller may see, the newest first."""
    seen = (item for item in await operations.all(limit=_ALL) if policy.owned(item.of))
    return schemas.Operations(
        operations=[schemas.show_operation(item) for item in islice(seen, limit)]
    )


@router.get("/{id}")
@requires(Scope.LABS_READ, about=Thing.OPERATION, student=True)
async def get_operation(
    id: schemas.OperationId,
    operations: OperationsDep,
    closing: ClosingDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for its end")] = 0.0,
) -> schemas.Operation:
    """Return an operation; with `wait`, as soon as it has ended."""
    if wait > 0:
        ended = await until_closing(operations.wait(id, wait), closing)
        if ended is not None:
            return schemas.show_operation(ended)
    return schemas.show_operation(await operations.get(id))
