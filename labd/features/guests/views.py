"""What the API may ask of the insides of guests: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from labd.model.machine import ExecResult
from labd.model.names import NodeRef

STDIN_LIMIT: Final = 512 << 10  # bytes
PATIENCE: Final = 5.0  # seconds to wait for an agent that may just be starting


class GuestsApi(Protocol):
    """Commands and files by the guest agent, where there may be no network.

    Each raises `IllegalTransition` for a node that does not run, `GuestAgentAbsent` when no agent
    is there after `PATIENCE`, and `GuestFailed` with the guest's words when it refuses.
    """

    async def execute(
        self, ref: NodeRef, argv: Sequence[str], *, stdin: bytes, timeout: float
    ) -> ExecResult:
        """Run a command and wait for its end, at most `timeout` seconds.

        Raises:
            InputError: `stdin` is over `STDIN_LIMIT`.
        """

    def read_file(
        self, ref: NodeRef, path: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a file for reading; that it can be read is known on entry."""

    async def write_file(self, ref: NodeRef, path: str, content: AsyncIterator[bytes]) -> int:
        """Make or overwrite a file; return its bytes."""
