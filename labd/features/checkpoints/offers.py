"""The seam to forks that were made before anybody asked: who starts a fork asks for one first."""

from __future__ import annotations

from typing import Protocol

from labd.inventory.port import Transaction
from labd.model.checkpoints import CheckpointRecord
from labd.model.records import LabRecord, NodeRecord, OperationRecord
from labd.model.specs import LabSpec


class ReadyForks(Protocol):
    """Forks that stand ready; `labd.features.warm` has them."""

    async def take(
        self, tx: Transaction, record: CheckpointRecord, spec: LabSpec, name: str
    ) -> tuple[str, list[NodeRecord]] | None:
        """Take the oldest member that fits out of its pool, inside a transaction of the caller's.

        Args:
            tx: The transaction.
            record: The checkpoint.
            spec: Of the lab.
            name: Of the lab.

        Returns:
            Key of the lab, and its nodes with machines and processes; None when there is none.
        """

    async def welcome(
        self,
        tx: Transaction,
        record: CheckpointRecord,
        lab: LabRecord,
        nodes: list[NodeRecord],
        operation: OperationRecord,
    ) -> None:
        """Write the nodes of a member that became a lab; the lab and its nodes are there."""
