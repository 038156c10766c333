"""What goes over the wire of operations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Response
from pydantic import Field

from labd.api.models import Wire
from labd.model.records import OperationKind, OperationRecord
from labd.model.states import OperationState

OperationId = Annotated[str, Path(pattern="^op-[0-9a-f]{12}$")]


class Operation(Wire):
    """One accepted request."""

    id: str
    kind: OperationKind
    lab: str
    state: OperationState
    progress: dict[str, Any] = Field(description="`done`, `total`, `text`")
    error: dict[str, Any] | None = Field(description="`code`, `message`, … when it failed")
    created: str
    finished: str


class Operations(Wire):
    """Operations, the newest first."""

    operations: list[Operation]


def show_operation(record: OperationRecord) -> Operation:
    """Show an operation."""
    return Operation(
        id=record.id,
        kind=record.kind,
        lab=record.lab,
        state=record.state,
        progress=dict(record.progress),
        error=None if record.error is None else dict(record.error),
        created=record.created,
        finished=record.finished,
    )


def accepted(response: Response, operation: OperationRecord) -> Operation:
    """Answer with an operation, and where to ask for its outcome."""
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return show_operation(operation)
