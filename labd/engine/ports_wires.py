"""The seams to the wires between nodes; see `engine.ports`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from labd.model.impairment import Impairment
from labd.model.wires import ShapePlan


class Wires(Protocol):
    """What happens to frames on their way."""

    async def check(self, wanted: Iterable[Impairment]) -> None:
        """Tell whether the kernel can do it; changes nothing.

        Raises:
            InputError: It cannot; names its option.
        """

    async def apply(self, namespace: str, shapes: Sequence[ShapePlan]) -> None:
        """Have exactly these impairments in a lab (idempotent).

        Taps that are not there, and a namespace that is not, are left out.

        Raises:
            NetworkFailed: The kernel refuses; calling again goes on.
        """


class Carriers(Protocol):
    """The carrier that guests see. Raises as the calls of `ports.Hypervisor` by key do."""

    async def set_carrier(self, key: str, nic: str, *, up: bool) -> None:
        """Switch the carrier of a NIC, by `Nic.id`, on or off (idempotent).

        Raises:
            QmpRefused: The machine has no such NIC.
        """
