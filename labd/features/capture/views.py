"""What the API may ask about packets: a part of `facade.EngineApi`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from labd.drivers.network.port import PacketCapture


class CapturesApi(Protocol):
    """Captures; each ends with its context."""

    def open(
        self, lab: str, target: str, *, filter: str = "", count: int = 0
    ) -> AbstractAsyncContextManager[PacketCapture]:
        """Capture at a link, a network, or a NIC (`NODE/NIC`).

        Raises:
            NotFound: The lab has no such thing.
            IllegalTransition, Conflict: It is down at present.
            InputError: The filter is wrong.
        """
