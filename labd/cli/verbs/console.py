"""`lab console`: the serial line of a node over a WebSocket."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import click

from labd.cli.session import Session, node_ref, verb
from labd.model.errors import NodeGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

_DETACH = 0x1D  # Ctrl-]
_IDLE = 1.0  # seconds of silence after the end of stdin
_CHUNK = 4096
_GOING_AWAY = 1001


@verb("console")
@click.argument("ref", metavar="LAB/NODE")
def console(session: Session, ref: str) -> None:
    """Attach to the serial line of a node; Ctrl-] leaves it.

    With a pipe for stdin, its text is typed, and the command ends when the guest has fallen silent.
    """
    lab, node = node_ref(ref)
    session.client.node(lab, node)
    with _connect(session, lab, node) as line:
        session.note(f"attached to {ref}; Ctrl-] leaves it")
        code, reason = _talk(line)
    if code == _GOING_AWAY:
        session.note(f"\n{reason or 'labd has closed the line'}")
    elif reason:
        raise NodeGone(reason)


def _connect(session: Session, lab: str, node: str) -> ClientConnection:
    return session.websocket(f"/v1/labs/{lab}/nodes/{node}/console")


class _Reader(threading.Thread):
    """Copies what the guest says to stdout until the line is closed."""

    def __init__(self, line: ClientConnection) -> None:
        super().__init__(daemon=True)
        self._line = line
        self.last = time.monotonic()

    def run(self) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed, BrokenPipeError):
            while True:
                data = self._line.recv()
                self.last = time.monotonic()
                _write(data if isinstance(data, bytes) else data.encode())


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _talk(line: ClientConnection) -> tuple[int | None, str]:
    """Copy both ways until the person leaves or the line is closed; return how it was closed."""
    reader = _Reader(line)
    with _raw_terminal() as terminal:
        reader.start()
        _type(line, reader, terminal=terminal)
    if reader.is_alive():
        return None, ""
    return line.close_code, line.close_reason or ""


def _type(line: ClientConnection, reader: _Reader, *, terminal: bool) -> None:
    import select

    from websockets.exceptions import ConnectionClosed

    stdin = sys.stdin.fileno()
    with contextlib.suppress(ConnectionClosed):
        while reader.is_alive():
            if not select.select([stdin], [], [], 0.2)[0]:
                continue
            data = os.read(stdin, _CHUNK)
            if not data:
                break
            if terminal and _DETACH in data:
                line.send(data[: data.index(_DETACH)])
                return
            line.send(data)
        reader.last = time.monotonic()
        while reader.is_alive() and time.monotonic() - reader.last < _IDLE:
            time.sleep(0.05)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[bool]:
    """Pass every key to the guest while the block runs, also Ctrl-C; undone whatever happens."""
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def leave(number: int, _: object) -> None:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    tty.setraw(fd)
    try:
        yield True
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
