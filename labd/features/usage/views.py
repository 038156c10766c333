"""What the API may ask of the use of the host: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.usage import HostUsage, NodeUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One look at the host.

    Attributes:
        time: RFC 3339 UTC.
        clock: Seconds of a clock that never jumps; the rates are differences over its differences.
        nodes: Those that run, by lab and name.
    """

    time: str
    clock: float
    host: HostUsage
    nodes: Sequence[NodeUsage]


class UsageApi(Protocol):
    """What nodes take. Nothing is asked of QEMU, so that one that hangs holds nobody up."""

    async def look(self, lab: str = "") -> Usage:
        """Return what the nodes of a lab, or of all, have taken so far."""
