"""What is told of a capture that has ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureEnd:
    """How a capture went.

    Attributes:
        packets: Frames that were given out.
        dropped: Frames for which there was no room, because its reader was too slow.
        reason: Why it ended: `count`, `asked`, or a sentence.
    """

    packets: int
    dropped: int
    reason: str
