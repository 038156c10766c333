"""What the service of usage returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
