"""What goes over the wire of events."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from labd.api.models import Wire


class Events(Wire):
    """Events, as CloudEvents 1.0 records."""

    events: list[dict[str, Any]]
    first: int = Field(description="The lowest seq that is kept")
    last: int = Field(description="The highest seq; 0 when there was no event yet")
    next: int = Field(description="`after` of the next page; equals `last` when there is no more")
