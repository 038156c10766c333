"""What a serial line says while no labd listens: bounded, and neither lost nor read twice."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from labd.drivers.node.qemu.console_backlog import SIZE, ConsoleBacklog, open_for


class Line:
    """QEMU's side: a descriptor with the place of labd's, and a socket that holds `waiting`."""

    def __init__(self, stack: ExitStack) -> None:
        fd = open_for("aaaaaa", stack)
        self._writer = os.dup(fd)
        stack.callback(os.close, self._writer)
        self.ours = ConsoleBacklog(os.dup(fd))
        self.ours.begin()
        self.waiting = 0
        stack.callback(self.close)

    def close(self) -> None:
        """Let go of labd's side."""
        self.ours.close()

    def say(self, data: bytes) -> None:
        """Write as QEMU does: into the socket, and here; what has no room is lost."""
        self.waiting += len(data)
        try:
            os.write(self._writer, data)
        except OSError as error:
            assert error.errno == errno.EPERM

    def goes_to(self, place: int) -> None:
        """Write at another place from now on, as a QEMU may that obeys its guest."""
        os.lseek(self._writer, place, os.SEEK_SET)

    def hear(self) -> None:
        """Read the socket."""
        self.ours.heard(self.waiting)
        self.waiting = 0

    def die(self) -> None:
        """Have another labd come, for which nothing stands in the socket."""
        self.ours.close()
        found = ConsoleBacklog.of(os.getpid())
        assert found is not None
        self.ours = found
        self.waiting = 0

    def missed(self) -> bytes:
        """Return what labd had not read."""
        return self.ours.take(lambda: self.waiting)


@pytest.fixture
def line() -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(stack)


def test_what_was_not_read_is_found_once(line: Line) -> None:
    line.say(b"read\n")
    line.hear()
    line.say(b"not read\n")
    line.die()
    line.say(b"nor this\n")
    line.waiting = 0
    assert line.missed() == b"not read\nnor this\n"
    assert line.missed() == b""
    line.die()
    assert line.missed() == b""
    line.say(b"again\n")
    line.die()
    assert line.missed() == b"again\n"


def test_what_stands_in_the_socket_is_left_to_it(line: Line) -> None:
    line.say(b"lost\n")
    line.die()
    line.say(b"in the socket\n")
    assert line.missed() == b"lost\n"
    line.hear()
    line.die()
    assert line.missed() == b""


def test_it_goes_on_for_ever(line: Line) -> None:
    for number in range(3 * SIZE // 100):
        line.say(b"%099d\n" % number)
        if number % 3 == 0:  # labd is behind now and then
            line.hear()
    line.hear()
    line.say(b"the end\n")
    line.die()
    assert line.missed() == b"the end\n"


def test_a_guest_that_never_stops_fills_no_memory(line: Line) -> None:
    line.say(b"first\n")
    for _ in range(3 * SIZE // 1024):
        line.say(bytes(1024))
    line.die()
    found = line.missed()
    assert found.startswith(b"first\n")
    assert len(found) < SIZE
    line.say(b"x")
    line.hear()
    line.say(b"later\n")
    line.die()
    assert line.missed() == b"later\n", "there is room again"


def test_a_place_that_is_none_costs_no_memory(line: Line) -> None:
    line.say(b"honest\n")
    line.goes_to(1 << 62)
    assert len(line.missed()) <= SIZE
    line.say(b"later\n")
    line.die()
    assert line.missed() == b"later\n"


def test_a_count_that_is_none_costs_no_memory(line: Line) -> None:
    for count in (-(1 << 63), (1 << 63) - 1):
        line.goes_to(0)
        line.say(count.to_bytes(8, "big", signed=True) + bytes(8) + b"text\n")
        line.die()
        assert len(line.missed()) <= SIZE


def test_a_memory_of_somebody_elses_making_is_none() -> None:
    with ExitStack() as stack:
        open_for("aaaaaa", stack)  # nobody has begun it
        assert ConsoleBacklog.of(os.getpid()) is None


def test_a_process_without_one_has_none() -> None:
    assert ConsoleBacklog.of(1) is None
    assert ConsoleBacklog.of(1 << 30) is None
