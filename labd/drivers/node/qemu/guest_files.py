"""Files of guests by their agents (`drivers.node.capabilities.GuestFiles`); QGA's guest-file-*.

A chunk a call: memory stays bounded whatever the guest or the client sends.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from labd.drivers.node.qemu.agent import GuestAgent
from labd.drivers.node.qemu.vm import Vm
from labd.model.errors import GuestFailed

CHUNK: Final = 512 << 10  # bytes
_TIMEOUT: Final = 30.0  # seconds of one chunk


class QemuGuestFiles:
    """The files of the guests of one hypervisor.

    Args:
        find: Machine key -> running machine; raises NodeGone.
    """

    def __init__(self, find: Callable[[str], Vm]) -> None:
        self._find = find

    async def read(self, key: str, path: str) -> AsyncIterator[bytes]:
        """Yield a file's content; see the port."""
        agent = self._find(key).agent
        async with _opened(agent, path, "r") as handle:
            while True:
                answer = await agent.call(
                    "guest-file-read", {"handle": handle, "count": CHUNK}, _TIMEOUT
                )
                if not isinstance(answer, Mapping):
                    raise agent.nonsense("guest-file-read")
                data = agent.decode(answer.get("buf-b64"))
                if data:
                    yield data
                if answer.get("eof") or not data:
                    return

    async def write(self, key: str, path: str, content: AsyncIterator[bytes]) -> int:
        """Write a file; see the port."""
        agent = self._find(key).agent
        written = 0
        async with _opened(agent, path, "w") as handle:
            async for part in _chunks(content):
                await _write(agent, handle, part)
                written += len(part)
        return written


async def _chunks(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in chunks of `CHUNK`, the last one shorter."""
    held = bytearray()
    async for part in content:
        held += part
        while len(held) >= CHUNK:
            yield bytes(held[:CHUNK])
            del held[:CHUNK]
    if held:
        yield bytes(held)


async def _write(agent: GuestAgent, handle: int, data: bytes) -> None:
    while data:
        arguments = {"handle": handle, "buf-b64": base64.b64encode(data).decode()}
        answer = await agent.call("guest-file-write", arguments, _TIMEOUT)
        count = answer.get("count") if isinstance(answer, Mapping) else None
        if not isinstance(count, int) or not 0 < count <= len(data):
            raise agent.nonsense("guest-file-write")
        data = data[count:]


@asynccontextmanager
async def _opened(agent: GuestAgent, path: str, mode: str) -> AsyncIterator[int]:
    """Open a file for the block. What was written is told to be there only when close said so."""
    handle = await agent.call("guest-file-open", {"path": path, "mode": mode}, _TIMEOUT)
    if not isinstance(handle, int):
        raise agent.nonsense("guest-file-open")
    try:
        yield handle
    except BaseException:
        with suppress(GuestFailed):
            await agent.call("guest-file-close", {"handle": handle}, _TIMEOUT)
        raise
    await agent.call("guest-file-close", {"handle": handle}, _TIMEOUT)
