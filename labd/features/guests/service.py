"""Commands and files in guests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.features.activity import ActivityService
from labd.model.activity import Source
from labd.model.errors import GuestAgentAbsent, IllegalTransition, InputError
from labd.model.machine import ExecResult
from labd.model.names import NodeRef
from labd.model.states import NodeState

STDIN_LIMIT: Final = 512 << 10  # bytes
PATIENCE: Final = 5.0  # seconds to wait for an agent that may just be starting
_POLL = 0.1  # seconds between looks for the agent
_RUNS = {NodeState.RUNNING, NodeState.READY}

T = TypeVar("T")


class GuestService:
    """Commands and files by the guest agent, where there may be no network.

    Each raises `IllegalTransition` for a node that does not run, `GuestAgentAbsent` when no agent
    is there after `PATIENCE`, and `GuestFailed` with the guest's words when it refuses.
    """

    def __init__(
        self, adapters: Adapters, state_writer: StateWriter, activity: ActivityService
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._activity = activity

    async def execute(
        self, ref: NodeRef, argv: Sequence[str], *, stdin: bytes, timeout: float
    ) -> ExecResult:
        """Run a command and wait for its end, at most `timeout` seconds.

        Raises:
            InputError: `stdin` is over `STDIN_LIMIT`.
        """
        if len(stdin) > STDIN_LIMIT:
            raise InputError(
                f"stdin of a command is at most {STDIN_LIMIT >> 10} KiB; "
                "copy it with `lab cp` first, and have the command read the file"
            )
        key = await self._key(ref, "run a command in")
        agents = self._adapters.nodes.agents(key)
        with self._activity.during(ref.lab, Source.EXEC):
            return await _patiently(lambda: agents.agent_exec(key, argv, timeout, stdin))

    @asynccontextmanager
    async def read_file(self, ref: NodeRef, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a file for reading; that it can be read is known on entry."""
        key = await self._key(ref, "read a file of")

        async def begin() -> tuple[AsyncIterator[bytes], bytes]:
            parts = aiter(self._adapters.nodes.guest_files(key).read(key, path))
            return parts, await anext(parts, b"")

        with self._activity.during(ref.lab, Source.COPY):
            parts, first = await _patiently(begin)

            async def whole() -> AsyncGenerator[bytes]:
                if first:
                    yield first
                async for part in parts:
                    yield part

            async with aclosing(whole()) as content:
                yield content

    async def write_file(self, ref: NodeRef, path: str, content: AsyncIterator[bytes]) -> int:
        """Make or overwrite a file; return its bytes."""
        key = await self._key(ref, "write a file of")
        # Without an agent nothing of `content` is read, so that it can be sent again.
        with self._activity.during(ref.lab, Source.COPY):
            return await _patiently(
                lambda: self._adapters.nodes.guest_files(key).write(key, path, content)
            )

    async def _key(self, ref: NodeRef, action: str) -> str:
        node = await self._state_writer.node(ref)
        if node.state not in _RUNS:
            raise IllegalTransition(str(ref), str(node.state), sorted(map(str, _RUNS)), action)
        return node.key


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while True:
        try:
            return await ask()
        except GuestAgentAbsent:
            if loop.time() >= end:
                raise
        await asyncio.sleep(_POLL)
