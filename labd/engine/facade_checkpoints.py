"""What the API may ask of checkpoints: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.checkpoints import CheckpointRecord, SaveMode
from labd.model.records import OperationRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """A checkpoint and what stands on it.

    Attributes:
        labs: Names of the labs that were started from it.
        loaded: Bytes of its memory that are ready to be mapped.
    """

    record: CheckpointRecord
    labs: tuple[str, ...]
    loaded: int


class CheckpointsApi(Protocol):
    """Freezing labs, and starting labs from what was frozen."""

    async def save(self, lab: str, name: str, *, mode: SaveMode, message: str) -> OperationRecord:
        """Save a lab as a checkpoint.

        Raises:
            Conflict: The name is taken, or a node does not run.
        """

    async def all(self) -> Sequence[CheckpointView]:
        """Return all checkpoints by name."""

    async def get(self, name: str) -> CheckpointView:
        """Return one checkpoint; NotFound when there is none."""

    async def remove(self, name: str) -> None:
        """Remove a checkpoint.

        Raises:
            InUse: Labs were started from it and exist still; names them.
        """

    async def fork(
        self, checkpoint: str, name: str, *, count: int, settings: Mapping[str, str]
    ) -> Sequence[OperationRecord]:
        """Start labs from a checkpoint: NAME, or NAME-1 to NAME-COUNT.

        Args:
            checkpoint: Its name.
            name: Of the new lab.
            count: How many; 0 for one lab with exactly that name.
            settings: What `on_fork` commands find in their environment, besides `LABD_LAB`.

        Raises:
            Conflict: A name is taken, or the host cannot hold them; nothing was begun.
            InputError: It cannot work on this host; tells why.
        """

    async def restore(self, lab: str, checkpoint: str) -> OperationRecord:
        """Take a lab back to a checkpoint of it, in place.

        Raises:
            InputError: The checkpoint is of another lab, or cannot work on this host.
        """
