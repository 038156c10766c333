"""What the service of warm pools returns."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.pools import WarmMember, WarmPoolRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPoolView:
    """A pool and how it is.

    Attributes:
        checkpoint: Name of its checkpoint.
        members: The oldest first; who asks for a fork gets the first that is ready.
        memory: Bytes that its members share with nobody.
        reason: Why it is not full, or empty.
    """

    record: WarmPoolRecord
    checkpoint: str
    members: tuple[WarmMember, ...]
    memory: int
    reason: str
