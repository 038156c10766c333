"""What the API may ask of the activity in labs: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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


class ActivityApi(Protocol):
    """How long labs have been idle."""

    async def all(self) -> Sequence[ActivityView]:
        """Return the activity in each lab of which a node runs, by name.

        Of connections and packets as of the last look at all labs: this is quick with many labs.
        """

    async def get(self, lab: str) -> ActivityView:
        """Return the activity in a lab as of now; NotFound when there is none of that name."""

    async def warn(self, lab: str, *, by: str, reason: str, text: str, left: float | None) -> None:
        """Tell everybody, by an event, what is about to happen to a lab.

        Args:
            lab: Its name; NotFound when there is none.
            by: Who warns.
            reason: One word for programs, such as `idle`.
            text: For people.
            left: Seconds until it happens.
        """
