"""Further seams of a running machine: its screen and its removable devices.

Calls by key raise as those of `ports.Hypervisor` do: `NodeGone`, `NodeUnresponsive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labd.model.keys import Chord


class ViewerStream(Protocol):
    """One viewer's connection to a screen: bytes of RFB (RFC 6143), both ways."""

    async def read(self) -> bytes:
        """Return the next bytes; empty when the machine has gone."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the viewer."""

    async def close(self) -> None:
        """Leave (idempotent)."""


class Screens(Protocol):
    """The screens of machines that were launched with one."""

    async def screenshot(self, key: str) -> bytes:
        """Return the picture as PNG.

        Raises:
            QmpRefused: QEMU cannot make it.
            WorldError: What QEMU made is no picture, or too large.
        """

    async def press(self, key: str, chords: Sequence[Chord]) -> None:
        """Press and release the keys of each chord, one chord after the other."""

    async def viewer(self, key: str) -> ViewerStream:
        """Connect one more viewer."""
