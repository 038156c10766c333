"""The seam to what labd serves in labs, addresses and names; see `engine.ports`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from labd.model.network import LabNetworkPlan
from labd.model.serving import Lease, Neighbour, ServerChange


class Servers(Protocol):
    """A server of addresses and names for each lab that asks for one; it outlives labd."""

    def listen(self, listener: Callable[[ServerChange], None]) -> None:
        """Have `listener` called in the loop for each change. Set once, before anything else."""

    async def check(self, plan: LabNetworkPlan) -> None:
        """Tell whether a plan could be served; changes nothing.

        Raises:
            CommandFailed: The program is not installed.
        """

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Have exactly the server of a plan, in a namespace with its bridges (idempotent).

        One of an earlier daemon is taken over, one that serves something else is told or replaced,
        and one that ends is started again.

        Raises:
            NetworkFailed, CommandFailed, StorageFailed: It does not start; nothing is left of the
                server of a lab that had none before.
        """

    async def remove(self, namespace: str) -> None:
        """End the server of a lab, before its namespace goes (idempotent)."""

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """End the servers of labs whose namespaces are not in `keep`; return their labs' keys."""

    async def leases(self, namespace: str) -> Sequence[Lease]:
        """Return the addresses that have been given out."""

    async def neighbours(self, namespace: str) -> Sequence[Neighbour]:
        """Return the addresses that were seen in a lab, with the MAC of each."""

    async def close(self) -> None:
        """Let go of every server without touching it."""
