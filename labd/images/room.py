"""Tells a full disk from other failures of the tools that build images."""

from __future__ import annotations

from typing import Final

from labd.model.errors import CommandFailed

NO_SPACE: Final = "No space left on device"  # strerror(ENOSPC); tools run with LANG=C.UTF-8


def no_room(error: CommandFailed) -> bool:
    """True if a tool failed because a disk was full, by its last words."""
    return NO_SPACE in str(error.details.get("stderr", ""))
