"""What the service of checkpoints returns."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.checkpoints import CheckpointRecord


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
