"""The seam to what leaves a lab; see `engine.ports`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from labd.model.network import LabNetworkPlan


class Uplinks(Protocol):
    """NAT to the outside, bridges of the host, and what labd routes between a lab's networks."""

    async def check(self, plan: LabNetworkPlan) -> None:
        """Tell whether the uplinks of a plan could be had; changes nothing.

        Raises:
            InputError: A bridge that is not listed or not there, no way to the outside, no free
                transit address.
            NetworkFailed: The kernel cannot do it; names its option.
        """

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Make the uplinks as planned, in a namespace that is there (idempotent).

        What an earlier plan had and this one has not is removed.

        Raises:
            NetworkFailed, InputError: Nothing is left of the uplinks of a lab that had none
                before; others keep rules that let through no more than the plan.
        """

    async def remove(self, namespace: str) -> None:
        """Remove the uplinks of a lab from the host, before its namespace goes (idempotent)."""

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove the uplinks of labs whose namespaces are not in `keep`; return whose went."""
