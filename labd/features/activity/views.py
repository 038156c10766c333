"""What the service of activity returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.activity import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityView:
    """When somebody did something with a lab last.

    Attributes:
        running: Whether a node of it runs; all else is empty when none does.
        since: RFC 3339 UTC at which labd began to watch it.
        last: RFC 3339 UTC of the last activity.
        idle: Seconds since then.
        source: By what.
        sources: Each one that was seen -> seconds since.
        rate: Packets a minute at its busiest NIC, between the last two looks.
    """

    lab: str
    running: bool
    since: str = ""
    last: str = ""
    idle: float | None = None
    source: Source | None = None
    sources: Mapping[Source, float] = field(default_factory=dict)
    rate: float = 0.0
