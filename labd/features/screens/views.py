"""What the API may ask of the screens of nodes: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from labd.drivers.node.capabilities import ViewerStream
from labd.model.names import NodeRef


class ScreensApi(Protocol):
    """Pictures, keys and viewers.

    Each raises `InputError` for a node without a screen and `IllegalTransition` for one that does
    not run.
    """

    async def screenshot(self, ref: NodeRef) -> bytes:
        """Return what the screen shows as PNG."""

    async def type(self, ref: NodeRef, text: str, chords: Sequence[str]) -> int:
        """Type a text, then chords such as `ctrl-alt-f2`; return how many keys were pressed.

        Raises:
            InputError: A character is not on a US keyboard, or a chord is none; nothing is typed.
        """

    def viewer(self, ref: NodeRef) -> AbstractAsyncContextManager[ViewerStream]:
        """Connect one more VNC viewer (RFC 6143, without a password)."""
