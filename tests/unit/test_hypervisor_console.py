"""The serial line's hub, over a socket pair whose other end plays QEMU."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labd.drivers.node.qemu import console, logkeeper
from labd.drivers.node.qemu.console import ConsoleHub, clean_line
from labd.drivers.node.qemu.console_backlog import ConsoleBacklog, open_for
from labd.drivers.node.qemu.consolelog import LOG_LIMIT, RotatingLog
from labd.model.errors import InputError, NodeGone


@dataclass
class Line:
    hub: ConsoleHub
    qemu: socket.socket
    log: Path
    lost: list[bool]

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.qemu, data)
        await asyncio.sleep(0.02)


@asynccontextmanager
async def a_line(log: Path) -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    lost: list[bool] = []
    log.write_text("of an earlier start: ready\n")
    hub = ConsoleHub(log, "web/server", lambda: lost.append(True))
    await hub.attach(ours, fresh=True)
    try:
        yield Line(hub, theirs, log, lost)
    finally:
        hub.end()
        theirs.close()
        await asyncio.sleep(0)


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with a_line(tmp_path / "console.log") as it:
        yield it


@dataclass
class HungDisk:
    """A full pipe in the place of a log: a write to it waits, as on a disk that does not answer."""

    let_go: threading.Event = field(default_factory=threading.Event)
    seen: bytearray = field(default_factory=bytearray)
    _thread: threading.Thread | None = None

    def take(self, hub: ConsoleHub) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, bytes(4096))
        except BlockingIOError:
            os.set_blocking(writing, True)
        os.dup2(writing, hub._log._fd, inheritable=False)
        os.close(writing)
        self._thread = threading.Thread(target=self._answer, args=(reading,), daemon=True)
        self._thread.start()

    def _answer(self, reading: int) -> None:
        self.let_go.wait(15)  # a loop that hangs along goes on then, and the test fails
        self.let_go.set()
        while data := os.read(reading, 1 << 16):
            self.seen += data.lstrip(b"\0")
        os.close(reading)

    def end(self) -> None:
        self.let_go.set()
        assert self._thread is not None
        self._thread.join(30)


@pytest.fixture
async def hung(line: Line) -> AsyncIterator[HungDisk]:
    disk = HungDisk()
    disk.take(line.hub)
    try:
        yield disk
    finally:
        disk.let_go.set()


async def test_lines_are_found_whole_or_as_prompt(line: Line) -> None:
    waiting = asyncio.create_task(line.hub.wait("^ready$"))
    prompt = asyncio.create_task(line.hub.wait("login: $"))
    await asyncio.sleep(0.01)
    await line.say(b"not rea")
    await line.say(b"dy\r\nrea")
    await line.say(b"dy\r\nserver login: ")
    assert await asyncio.wait_for(waiting, 1) == "ready"
    assert await asyncio.wait_for(prompt, 1) == "server login: "


async def test_the_past_since_the_launch_counts(line: Line) -> None:
    await line.say(b"one: ready\n" + b"x" * 10_000 + b"\ntwo: ready\n")
    assert await asyncio.wait_for(line.hub.wait("ready"), 1) == "one: ready"


async def test_a_guest_that_boots_before_its_reset_is_told(line: Line) -> None:
    await line.say(b"ready at first\n")
    at = time.time()
    await line.say(b"ready again\n")
    line.hub.was_reset(at)
    assert await asyncio.wait_for(line.hub.wait("^ready"), 1) == "ready again"


async def test_what_was_said_before_a_reset_is_no_answer(line: Line) -> None:
    await line.say(b"ready at first\nhalf a li")
    line.hub.was_reset(time.time())
    waiting = asyncio.create_task(line.hub.wait("ready|ne$"))
    await line.say(b"ne\nready again\n")
    assert await asyncio.wait_for(waiting, 1) == "ne"


async def test_colours_do_not_matter(line: Line) -> None:
    await line.say(b"\x1b[0;32m  OK  \x1b[0m] Reached \x1b[1mtarget\x1b[0m\r\n")
    assert "OK  ] Reached target" in await asyncio.wait_for(line.hub.wait("Reached target"), 1)


async def test_a_bad_pattern_is_refused(line: Line) -> None:
    with pytest.raises(InputError, match=r"console pattern '\(' is not a regular expression"):
        await line.hub.wait("(")


async def test_a_line_without_end_is_bounded(line: Line) -> None:
    waiting = asyncio.create_task(line.hub.wait("needle"))
    for _ in range(50):
        await line.say(b"y" * 10_000)
    await line.say(b"needle")
    assert len(line.hub._line) <= console.LINE_LIMIT
    assert not waiting.done()
    await line.say(b"\nneedle\n")
    assert await asyncio.wait_for(waiting, 1) == "needle"


async def test_the_log_is_bounded(line: Line) -> None:
    for number in range(30):
        await line.say(b"%06d" % number + b"z" * 65_530)
    assert await line.hub.recorded(10)
    sizes = [path.stat().st_size for path in line.log.parent.iterdir()]
    assert len(sizes) == 4, "two halves, each with its index"
    assert max(sizes) <= LOG_LIMIT
    assert b"000029" in line.log.read_bytes()


async def test_a_flood_is_slowed_down(line: Line) -> None:
    loop = asyncio.get_running_loop()
    sent, end = 0, time.monotonic() + 0.6
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(0.1):
                await loop.sock_sendall(line.qemu, b"f" * 65_536)
                sent += 65_536
        except TimeoutError:
            break
    # what the kernel's socket buffers hold comes on top
    assert sent < console.RATE_LIMIT + (1 << 20)
    await asyncio.wait_for(loop.sock_sendall(line.qemu, b"g" * 300_000), 5)  # it goes on


async def test_a_slow_viewer_loses_the_oldest_and_harms_nobody(line: Line) -> None:
    with line.hub.viewer() as slow, line.hub.viewer() as quick:
        seen = b""
        for number in range(20):
            await line.say(b"%06d" % number + b"v" * 50_000)
            seen += await quick.read()
        assert len(seen) == 20 * 50_006
        late = await slow.read()
        assert len(late) <= console.VIEWER_LIMIT
        assert b"000019" in late
        assert b"000000" not in late


async def test_a_new_viewer_reads_the_last_4_kib(line: Line) -> None:
    await line.say(b"a" * 10_000 + b"end")
    with line.hub.viewer() as viewer:
        replay = await viewer.read()
    assert len(replay) == console.REPLAY
    assert replay.endswith(b"aend")


async def test_typing_reaches_qemu(line: Line) -> None:
    with line.hub.viewer() as viewer:
        await viewer.write(b"ls\n")
    assert await asyncio.get_running_loop().sock_recv(line.qemu, 10) == b"ls\n"


async def test_a_guest_that_does_not_read_holds_the_writer_up(line: Line) -> None:
    with line.hub.viewer() as viewer:

        async def write() -> None:
            for _ in range(200):
                await viewer.write(b"t" * 10_000)

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.1)
        assert not writing.done()
        line.hub.end()
        with pytest.raises(NodeGone):
            await asyncio.wait_for(writing, 1)


async def test_the_end_reaches_everyone(line: Line) -> None:
    waiting = asyncio.create_task(line.hub.wait("never"))
    with line.hub.viewer() as viewer:
        await line.say(b"last words")
        line.qemu.close()
        await line.hub.drain(1)
        assert line.lost == [True]
        line.hub.end()
        assert await viewer.read() == b"last words"
        assert await viewer.read() == b""
    with pytest.raises(NodeGone):
        await waiting
    with pytest.raises(NodeGone):
        await line.hub.wait("never")
    assert line.log.read_bytes() == b"last words"


async def test_a_later_daemon_appends(line: Line, tmp_path: Path) -> None:
    await line.say(b"before\n")
    ours, theirs = socket.socketpair()
    hub = ConsoleHub(line.log, "web/server", lambda: None)
    await hub.attach(ours, fresh=False)
    with hub.viewer() as viewer:
        assert await viewer.read() == b"before\n"
    assert await hub.wait("before") == "before"
    hub.end()
    theirs.close()
    await asyncio.sleep(0)


async def test_a_log_whose_disk_hangs_holds_up_nobody(
    line: Line, hung: HungDisk, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(line.hub.wait("^ready$"))
    await line.say(b"said\nready\n")
    with line.hub.viewer() as viewer:
        assert await viewer.read() == b"said\nready\n"
    assert await asyncio.wait_for(waiting, 10) == "ready"
    (tmp_path / "other").mkdir()
    async with a_line(tmp_path / "other" / "console.log") as other:
        await other.say(b"also ready\n")
        assert await asyncio.wait_for(other.hub.wait("ready"), 10) == "also ready"
        assert await other.hub.recorded(10)
        assert other.log.read_bytes() == b"also ready\n"
    assert not await line.hub.recorded(0.05)
    assert not hung.let_go.is_set()
    hung.let_go.set()
    assert await line.hub.recorded(10)
    line.hub.end()
    hung.end()
    assert bytes(hung.seen) == b"said\nready\n"


async def test_reading_waits_for_the_disk_of_the_log_and_nothing_is_lost(
    line: Line, hung: HungDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "PATIENCE", 60.0)
    monkeypatch.setattr(console, "RATE_LIMIT", 1 << 40)
    said = b"".join(b"%07d\n" % number for number in range(200_000))
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(line.qemu, said))
    await asyncio.sleep(0.5)
    assert not sending.done()
    assert logkeeper.WAITING_LIMIT < line.hub._keeper._waiting <= 2 * logkeeper.WAITING_LIMIT
    assert not hung.let_go.is_set()
    monkeypatch.setattr(line.hub._log, "_limit", 1 << 30)
    hung.let_go.set()
    await asyncio.wait_for(sending, 10)
    line.qemu.close()
    await line.hub.drain(10)
    line.hub.end()
    hung.end()
    assert bytes(hung.seen) == said


async def test_a_guest_waits_for_the_disk_of_its_log_for_some_seconds_only(
    line: Line,
    hung: HungDisk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logkeeper, "PATIENCE", 0.1)
    monkeypatch.setattr(console, "RATE_LIMIT", 1 << 40)
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(line.qemu, b"z" * (2 << 20))
            await line.say(b"\nready\n")
            with line.hub.viewer() as viewer:
                while not (await viewer.read()).endswith(b"ready\n"):
                    pass
        assert not hung.let_go.is_set()
        assert "has not answered for 0.1 s" in caplog.text
        assert line.hub._keeper._waiting <= 2 * logkeeper.WAITING_LIMIT
        hung.let_go.set()
        assert await line.hub.recorded(10)
        await asyncio.sleep(0.05)
    lost = 2 * (1 << 20) + 7 - len(hung.seen)
    assert f"is written again; {lost} bytes were not recorded" in caplog.text


async def test_what_is_not_recorded_is_left_to_the_next_labd(line: Line, hung: HungDisk) -> None:
    with ExitStack() as stack:
        backlog = ConsoleBacklog(os.dup(open_for("k00001", stack)))
        backlog.begin()
        line.hub.remember(backlog)
        await line.say(b"0123456789")
        assert backlog._read == 0
        hung.let_go.set()
        assert await line.hub.recorded(10)
        await asyncio.sleep(0.05)
        assert backlog._read == 10


def test_the_log_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "console.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        RotatingLog(tmp_path / "console.log").open(fresh=False)
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain\r", "plain"),
        (b"\x1b[2J\x1b[1;1Hboot", "boot"),
        (b"\x1b]0;title\x07prompt$ ", "prompt$ "),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_clean_line(raw: bytes, text: str) -> None:
    assert clean_line(raw) == text


class Broken(ConsoleBacklog):
    """The memory of what nobody has read, with a fault in each of its ways."""

    def __init__(self) -> None:
        """Have none."""

    def heard(self, size: int) -> None:
        raise ZeroDivisionError("heard")

    def take(self, waiting: Callable[[], int]) -> bytes:
        raise ZeroDivisionError("take")

    def close(self) -> None:
        """Have none."""


async def test_a_fault_of_labd_costs_no_line(line: Line) -> None:
    line.hub.catch_up(Broken())
    await line.say(b"one\n")
    await line.say(b"two\n")
    assert line.lost == []
    line.hub.remember(None)
    await line.say(b"three\n")
    assert await line.hub.recorded(10)
    assert line.log.read_bytes().endswith(b"one\ntwo\nthree\n")


async def test_a_line_is_read_though_the_past_is_lost_by_a_fault(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    hub = ConsoleHub(tmp_path / "console.log", "web/server", lambda: None)
    try:
        await hub.attach(ours, fresh=False)  # nothing is read before `catch_up`
        hub.catch_up(Broken())
        hub.remember(None)
        waiting = asyncio.create_task(hub.wait("^ready$"))
        await asyncio.get_running_loop().sock_sendall(theirs, b"ready\n")
        assert await asyncio.wait_for(waiting, 30) == "ready"
    finally:
        hub.end()
        theirs.close()
        await asyncio.sleep(0)
