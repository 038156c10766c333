"""Operations: accepted requests and their outcome."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query

from labd.api.callers import ServicesDep
from labd.api.policy import PolicyDep
from labd.api.waiting import until_closing
from labd.features import models, views

router = APIRouter(prefix="/operations", tags=["operations"])

_ALL = 1 << 20


@router.get("")
async def list_operations(
    found: ServicesDep, policy: PolicyDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> models.Operations:
    """List the operations that the caller may see, the newest first."""
    seen = (item for item in await found.engine.operations(limit=_ALL) if policy.owned(item.of))
    return models.Operations(operations=[views.operation(item) for item in islice(seen, limit)])


@router.get("/{id}")
async def get_operation(
    id: models.OperationId,
    found: ServicesDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for its end")] = 0.0,
) -> models.Operation:
    """Return an operation; with `wait`, as soon as it has ended."""
    engine = found.engine
    if wait > 0:
        ended = await until_closing(engine.wait_operation(id, wait), found.closing)
        if ended is not None:
            return views.operation(ended)
    return views.operation(await engine.operation(id))
