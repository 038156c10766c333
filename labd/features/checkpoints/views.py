"""What the API may ask of checkpoints: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.checkpoints import CheckpointRecord, SaveMode
from labd.model.lab_leases import LeaseAsk
from labd.model.records import OperationRecord
from labd.model.specs import LabSpec


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

    def export(self, name: str) -> AsyncIterator[bytes]:
        """Yield a checkpoint as one stream, for another host. Images do not go with it."""

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> CheckpointView:
        """Take a stream of `export` as a checkpoint called `name`.

        Raises:
            Conflict: The name is taken.
            InputError: It is no such stream, or is damaged. Nothing stays behind.
        """

    async def remove(self, name: str) -> None:
        """Remove a checkpoint.

        Raises:
            InUse: Labs were started from it and exist still, which are named; or it has a pool.
        """

    async def fork(
        self,
        checkpoint: str,
        name: str,
        *,
        count: int,
        settings: Mapping[str, str],
        spec: LabSpec | None = None,
        lease: LeaseAsk | None = None,
    ) -> Sequence[OperationRecord]:
        """Start labs from a checkpoint: NAME, or NAME-1 to NAME-COUNT.

        Args:
            checkpoint: Its name.
            name: Of the new lab.
            count: How many; 0 for one lab with exactly that name.
            settings: What `on_fork` commands find in their environment, besides `LABD_LAB` and the
                parameters of the template.
            lease: Of each of the new labs.
            spec: What the labs shall be; the same machines and networks as the checkpoint's.

        Raises:
            Conflict: A name is taken, or the host cannot hold them; nothing was begun.
            InputError: It cannot work on this host; tells why.
        """

    async def restore(
        self, lab: str, checkpoint: str = "", nodes: Sequence[str] = ()
    ) -> OperationRecord:
        """Take a lab, or some of its nodes, back to a checkpoint of it, in place.

        Args:
            lab: Its name.
            checkpoint: Empty for the one from which the lab was started.
            nodes: Empty for all.

        Raises:
            InputError: The checkpoint is of another lab, or cannot work on this host.
            Conflict: The lab was not started from a checkpoint.
        """

    async def chapter(self, lab: str, *, again: bool) -> OperationRecord:
        """Take a lab to the next chapter of its template, or to the begin of the present one.

        Raises:
            InputError: The template has no chapters.
            Conflict: There is no next one, or none was begun yet.
        """
