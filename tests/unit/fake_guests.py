"""The guests of a `FakeEngine`: a few commands, and files in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from labd.model.errors import GuestFailed
from labd.model.machine import ExecResult
from labd.model.names import NodeRef


class FakeGuestsApi:
    """Implements `GuestsApi`; `find` raises for nodes that are not there.

    Commands: `cat` (its stdin), `say OUT ERR STATUS`, `huge` (more than is kept), `which` (the
    node's name); others are refused. `ran` is what was asked.
    """

    def __init__(self, find: Callable[[NodeRef], Awaitable[object]]) -> None:
        self._find = find
        self.files: dict[tuple[str, str], bytes] = {}
        self.ran: list[tuple[str, tuple[str, ...]]] = []
        self.known: dict[tuple[str, ...], int] = {}  # argv -> status, for tests to set

    async def execute(
        self, ref: NodeRef, argv: Sequence[str], *, stdin: bytes, timeout: float
    ) -> ExecResult:
        await self._find(ref)
        self.ran.append((str(ref), tuple(argv)))
        if tuple(argv) in self.known:
            return ExecResult(status=self.known[tuple(argv)], stdout=b"", stderr=b"")
        match list(argv):
            case ["cat"]:
                return ExecResult(status=0, stdout=stdin, stderr=b"")
            case ["say", out, err, status]:
                return ExecResult(status=int(status), stdout=out.encode(), stderr=err.encode())
            case ["huge"]:
                return ExecResult(status=0, stdout=b"x", stderr=b"", truncated=True)
            case ["which"]:
                return ExecResult(status=0, stdout=f"{ref.node}\n".encode(), stderr=b"")
            case ["test", "-d", path]:
                there = any(name.startswith(f"{path.rstrip('/')}/") for _, name in self.files)
                return ExecResult(status=0 if there else 1, stdout=b"", stderr=b"")
            case ["chmod", *_]:
                return ExecResult(status=0, stdout=b"", stderr=b"")
        raise GuestFailed(f"the guest agent of {ref} refused guest-exec: no {argv[0]}")

    @asynccontextmanager
    async def read_file(self, ref: NodeRef, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._find(ref)
        if (str(ref), path) not in self.files:
            raise GuestFailed(f"the guest agent of {ref} refused guest-file-open: no {path}")

        async def parts() -> AsyncIterator[bytes]:
            yield self.files[str(ref), path]

        yield parts()

    async def write_file(self, ref: NodeRef, path: str, content: AsyncIterator[bytes]) -> int:
        await self._find(ref)
        self.files[str(ref), path] = b"".join([part async for part in content])
        return len(self.files[str(ref), path])
