"""The serial line of a machine: one connection to QEMU, a bounded log, any number of viewers.

The guest is not trusted: it can neither fill the disk (the log is two files of bounded size), nor
the memory (each viewer's queue and the current line are bounded), nor keep the daemon busy (beyond
a rate, reading waits, and the guest's port with it).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from labd.drivers.node.qemu.console_backlog import ConsoleBacklog
from labd.drivers.node.qemu.consolelog import RotatingLog
from labd.drivers.node.qemu.logkeeper import LogKeeper
from labd.host.ratelimit import RateLimiter
from labd.host.supervision import Contained, TaskSupervisor
from labd.host.threads import quick
from labd.model.errors import InputError, NodeGone

REPLAY: Final = 4 << 10  # bytes of the past that a new viewer reads first
VIEWER_LIMIT: Final = 256 << 10  # bytes that wait for a slow viewer; the oldest are dropped
LINE_LIMIT: Final = 4 << 10  # bytes of one line that patterns see
RATE_LIMIT: Final = 2 << 20  # bytes a second
_WRITE_LIMIT = 64 << 10  # bytes typed that QEMU has not taken yet
_QUIET = 0.05  # seconds without output after which an unfinished line (a prompt) is looked at
_RECORDED = 1.0  # seconds that somebody who waits for a line waits for the log as well
_RECENT = 256  # reads of which it is known when they were

# Colours and cursor movements (ECMA-48 CSI and OSC), which a pattern should not have to know.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def clean_line(raw: bytes) -> str:
    """Return one line of output as patterns see it: no line ends, no escape sequences."""
    text = raw[:LINE_LIMIT].decode(errors="replace")
    return _ESCAPES.sub("", text).strip("\r\n\0")


def _search(text: bytes, pattern: re.Pattern[str]) -> str | None:
    lines = map(clean_line, text.split(b"\n"))
    return next((line for line in lines if pattern.search(line)), None)


class Viewer:
    """One viewer of a serial line (`drivers.node.port.Console`)."""

    def __init__(self, hub: ConsoleHub, replay: bytes) -> None:
        self._hub = hub
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._wake = asyncio.Event()
        if replay:
            self.feed(replay)

    def feed(self, data: bytes) -> None:
        """Queue output; a viewer that does not read loses the oldest."""
        self._chunks.append(data)
        self._size += len(data)
        while self._size > VIEWER_LIMIT and len(self._chunks) > 1:
            self._size -= len(self._chunks.popleft())
        self._wake.set()

    def end(self) -> None:
        """Say that nothing more will come."""
        self._ended = True
        self._wake.set()

    async def read(self) -> bytes:
        """Return the next output; empty when the node has gone."""
        while not self._chunks:
            if self._ended:
                return b""
            self._wake.clear()
            await self._wake.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return data

    async def write(self, data: bytes) -> None:
        """Type into the line; waits while the guest does not take it.

        Raises:
            NodeGone: The node has ended.
        """
        await self._hub.write(data)


class ConsoleHub(asyncio.Protocol):
    """The only client of QEMU's serial socket.

    Args:
        log_path: Where the output is recorded.
        name: `LAB/NODE`, for errors.
        lost: Called when QEMU closes the connection.
        tasks: Counts faults of labd; none of them costs the line.
    """

    def __init__(
        self,
        log_path: Path,
        name: str,
        lost: Callable[[], None],
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self._tasks = tasks or TaskSupervisor()
        self._log = RotatingLog(log_path)
        self._keeper = LogKeeper(self._log, name, self)
        self._throttled = False
        self._full = False  # nothing is read while too much waits for the log's disk
        self._unnoted = 0  # bytes of the socket that are not recorded yet
        self.name = name
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._swaps = 0
        self._heard = 0.0
        self._writable = asyncio.Event()
        self._tail = bytearray()
        self._line = bytearray()
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)  # when, how many bytes
        self._viewers: set[Viewer] = set()
        self._waiters: dict[asyncio.Future[str], re.Pattern[str]] = {}
        self._quiet: asyncio.TimerHandle | None = None
        self._limiter = RateLimiter(RATE_LIMIT, RATE_LIMIT)
        self._ended = False
        self._held = False  # nothing is read until it is known what came before
        self._backlog: ConsoleBacklog | None = None
        self._detached = asyncio.Event()
        self._detached.set()

    async def attach(self, sock: socket.socket, *, fresh: bool) -> None:
        """Take a connected socket and begin to record.

        Args:
            sock: Connected to QEMU's serial socket; the hub owns it from now on.
            fresh: The machine was just launched: earlier output is forgotten. Of any other,
                nothing is read before `catch_up`.
        """
        loop = asyncio.get_running_loop()
        await self._keeper.do(self._log.close)
        await self._keeper.do(partial(self._log.open, fresh=fresh))
        if not fresh and not self._tail:
            kept = await self._keeper.do(self._log.read)
            self._tail[:0] = kept[-REPLAY:]
        self._held = not fresh
        await loop.create_unix_connection(lambda: self, sock=sock)

    async def swap(self, sock: socket.socket) -> None:
        """Put a fresh connection in place of the present one.

        `sock` waits in QEMU's backlog already, so that no time passes between the two. Nothing is
        read before `catch_up`.
        """
        if self._transport is None or self._ended:
            sock.close()
            return
        self._swaps += 1
        self._held = True
        self._transport.close()
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            self._transport = None
            self._detached.set()
            raise

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if self._ended:
            transport.close()
            return
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a socket's always is
        transport.set_write_buffer_limits(high=_WRITE_LIMIT)
        self._transport = transport
        if self._held or self._full:
            transport.pause_reading()
        self._detached.clear()
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the owner, who knows whether the machine still lives."""
        if self._swaps:
            self._swaps -= 1  # the old one of `swap`
            return
        self._transport = None
        self._detached.set()
        if not self._ended:
            self._lost()

    def pause_writing(self) -> None:
        """Have writers wait: the guest does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Record output, show it to the viewers and compare its lines with the patterns."""
        self._unnoted += len(data)
        with self._contained():
            self._take(data)
        self._throttle(len(data))

    def _contained(self) -> Contained:
        return self._tasks.contained(f"console {self.name}")

    def _take(self, data: bytes) -> None:
        self._keeper.write(data)
        self._heard = asyncio.get_running_loop().time()
        self._recent.append((time.time(), len(data)))
        self._tail += data
        del self._tail[:-REPLAY]
        for viewer in self._viewers:
            viewer.feed(data)
        self._take_lines(data)

    def written(self, size: int) -> None:
        """Note what the next labd need not hear again: only what is recorded already."""
        size = min(size, self._unnoted)
        self._unnoted -= size
        if self._backlog is not None and size:
            with self._contained():
                self._backlog.heard(size)

    def press(self, full: bool) -> None:  # noqa: FBT001
        """Stop reading, or go on, as the log's disk has it."""
        self._full = full
        if self._transport is None:
            return
        if full:
            self._transport.pause_reading()
        else:
            self._resume()

    def failed(self, error: BaseException) -> None:
        """Count a fault of labd in the thread of the log."""
        with self._contained():
            raise error

    # what nobody has read

    def remember(self, backlog: ConsoleBacklog | None) -> None:
        """Have what is said kept for the next labd; the hub closes it."""
        old, self._backlog = self._backlog, backlog
        if old is not None and old is not backlog:
            old.close()

    def catch_up(self, backlog: ConsoleBacklog | None = None) -> None:
        """Take what was said while nobody was connected, and begin to read.

        Args:
            backlog: The machine's, for `remember`; None: the one that is remembered.
        """
        if backlog is not None:
            self.remember(backlog)
        if self._ended:
            self.remember(None)
        with self._contained():  # whatever comes of it, the line is read from now on
            self.written(self._unnoted)  # they stand in the queue of the log
            if self._backlog is not None and (missed := self._backlog.take(self._waiting)):
                self._take(missed)
        self._held = False
        self._limiter.refill()
        self._go_on()

    def _waiting(self) -> int:
        """Return how many bytes the socket holds."""
        if self._transport is None:
            return 0
        sock = self._transport.get_extra_info("socket")
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    # what others ask for

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Attach one more viewer."""
        viewer = Viewer(self, bytes(self._tail))
        if self._ended:
            viewer.end()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            viewer.end()

    async def write(self, data: bytes) -> None:
        """Type into the line; waits while the guest does not take it.

        Raises:
            NodeGone: The node has ended.
        """
        await self._writable.wait()
        if self._ended:
            raise self._gone()
        if self._transport is not None:
            self._transport.write(data)

    def was_reset(self, at: float) -> None:
        """The machine begins anew: what it said before is no answer to `wait` any more.

        Args:
            at: When, in seconds since the epoch, by QEMU's own stamp. Its event comes by another
                socket than the output: a guest that boots in milliseconds may have been read first.
        """
        anew = sum(size for when, size in self._recent if when >= at)
        self._keeper.mark(anew)
        # What it left unfinished, such as a prompt, is not the begin of its next line.
        if not anew:
            self._line.clear()

    @property
    def attached(self) -> bool:
        """Whether there is a connection to the line."""
        return self._transport is not None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a line."""
        return bool(self._waiters)

    @property
    def quiet_for(self) -> float:
        """Seconds since the last output."""
        return asyncio.get_running_loop().time() - self._heard

    async def wait(self, pattern: str) -> str:
        """Return the first line since the launch or last reset in which `pattern` is found.

        Raises:
            InputError: It is not a regular expression.
            NodeGone: The machine ended first.
        """
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"console pattern {pattern[:80]!r} is not a regular expression: {error}"
            ) from error
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Registered first, so that no line falls between the past and the future. A disk that does
        # not answer hides the past, and nothing that comes.
        self._waiters[found] = compiled
        past: asyncio.Future[str | None] = asyncio.ensure_future(self._search_past(compiled))
        try:
            await asyncio.wait((found, past), return_when=asyncio.FIRST_COMPLETED)
            if not found.done() and (earlier := past.result()) is not None:
                return earlier
            if self._ended and not found.done():
                raise self._gone()
            line = await found
            # Whoever looks into the log now shall find the line there.
            await self._keeper.settled(_RECORDED)
            return line
        finally:
            past.cancel()
            self._waiters.pop(found, None)
            if found.done() and not found.cancelled():
                found.exception()  # has been seen, also when the past was quicker

    async def drain(self, timeout: float) -> None:
        """Wait until all output of a dead QEMU is recorded, or after `timeout` seconds."""
        self._limiter.refill()
        self._go_on()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._detached.wait()
                await self._keeper.settled(timeout)

    async def recorded(self, timeout: float = _RECORDED) -> bool:
        """Wait until the log has all that was read so far; tell whether it has in time."""
        return await self._keeper.settled(timeout)

    def end(self) -> None:
        """The machine has ended: nothing more will come (idempotent)."""
        self._ended = True
        self._writable.set()
        if self._quiet is not None:
            self._quiet.cancel()
        for viewer in self._viewers:
            viewer.end()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._gone())
        if self._transport is not None:
            self._transport.close()
        self.written(self._unnoted)  # the thread records it yet
        self._keeper.close()
        self.remember(None)

    def _gone(self) -> NodeGone:
        return NodeGone(f"{self.name} has ended; start it again with `lab start {self.name}`")

    async def _search_past(self, pattern: re.Pattern[str]) -> str | None:
        kept = await self._keeper.do(self._log.read_since_mark)
        return await quick(_search, kept, pattern)

    def _take_lines(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        if self._waiters:
            for index, raw in enumerate(whole):
                self._compare(bytes(self._line) + raw if index == 0 else raw)
        if whole:
            self._line.clear()
        if len(self._line) < LINE_LIMIT:
            self._line += rest[: LINE_LIMIT - len(self._line)]
        if self._waiters and self._line and self._quiet is None:
            loop = asyncio.get_running_loop()
            self._quiet = loop.call_later(_QUIET, self._compare_unfinished)

    def _compare_unfinished(self) -> None:
        self._quiet = None
        self._compare(bytes(self._line))

    def _compare(self, raw: bytes) -> None:
        line = clean_line(raw)
        for waiter, pattern in self._waiters.items():
            if not waiter.done() and pattern.search(line):
                waiter.set_result(line)

    def _throttle(self, size: int) -> None:
        wait = self._limiter.owe(size)
        if wait > 0 and self._transport is not None:
            self._throttled = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(wait, self._go_on)

    def _go_on(self) -> None:
        self._throttled = False
        self._resume()

    def _resume(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not self._held and not self._full and not self._throttled:
            self._transport.resume_reading()
