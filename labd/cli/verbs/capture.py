"""`lab capture`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading

import click

from labd.cli.session import Session, verb
from labd.model.errors import InputError, WorldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from websockets.sync.client import ClientConnection

_STOPPED_WELL = ("asked", "count")


@verb("capture")
@click.argument("lab", metavar="LAB[/NODE/NIC]")
@click.argument("target", metavar="[LINK|NETWORK|NODE/NIC]", default="")
@click.option("-w", "--write", "path", metavar="FILE", help="`-` is stdout, as it is for a pipe.")
@click.option("--filter", "expression", default="", metavar="BPF", help="As in pcap-filter(7).")
@click.option("--count", type=click.IntRange(1, 1 << 31), metavar="N", help="End after N packets.")
def capture(
    session: Session, lab: str, target: str, path: str | None, expression: str, count: int | None
) -> None:
    """Write the packets of a link, a network or a NIC as pcapng, until Ctrl-C.

    LAB/NODE/NIC may be written in one word. Into a program:

        lab capture web lan -w - | wireshark -k -i -
    """
    if not target:
        lab, _, target = lab.partition("/")
    if not lab or not target:
        raise InputError(
            "name a link or network (lab capture web lan) or a NIC (lab capture web/server/eth0)"
        )
    if path is None:
        path = f"{lab}-{target.replace('/', '-')}.pcapng" if sys.stdout.isatty() else "-"
    if path == "-" and sys.stdout.isatty():
        raise InputError("packets are not for a terminal; give -w FILE, or a pipe")
    with _connect(session, lab, target, expression, count or 0) as stream:
        if path != "-" and sys.stderr.isatty():
            session.note(f"the packets of {lab}/{target} go to {path}; Ctrl-C ends it")
        told = _write(stream, path)
    _tell(session, path, told)


def _connect(
    session: Session, lab: str, target: str, expression: str, count: int
) -> ClientConnection:
    from urllib.parse import quote, urlencode

    query = urlencode({"target": target, "filter": expression, "count": count})
    return session.websocket(f"/v1/labs/{quote(lab, safe='')}/capture?{query}")


def _write(stream: ClientConnection, path: str) -> dict[str, Any]:
    """Write the file to its end; return what labd tells of it, empty when nobody reads it."""
    try:
        fd = 1 if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another -w") from error
    if path == "-":
        threading.Thread(target=_stop_without_reader, args=(stream,), daemon=True).start()
    try:
        with _signals_stop(stream):
            return _copy(stream, fd)
    except BrokenPipeError:
        return {}
    except OSError as error:
        raise WorldError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if path != "-":
            os.close(fd)


def _copy(stream: ClientConnection, fd: int) -> dict[str, Any]:
    from websockets.exceptions import ConnectionClosed

    told: dict[str, Any] = {}
    try:
        while True:
            message = stream.recv()
            if isinstance(message, str):
                told = json.loads(message)
            else:
                _all(fd, message)
    except ConnectionClosed:
        if not told:
            raise WorldError("the capture broke off: labd has gone; `lab status` tells") from None
    return told


def _all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _signals_stop(stream: ClientConnection) -> Iterator[None]:
    """Have labd end the capture in order at Ctrl-C; at the next one this ends at once."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not here: what the signal came upon may hold the connection's lock.
        threading.Thread(target=_ask_to_stop, args=(stream,), daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_without_reader(stream: ClientConnection) -> None:
    """Wait until nobody reads stdout any more (POLLERR of a pipe), packets or not."""
    poll = select.poll()
    poll.register(1, 0)
    with contextlib.suppress(OSError):
        poll.poll()
        _ask_to_stop(stream)


def _ask_to_stop(stream: ClientConnection) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed, OSError):
        stream.send("end")


def _tell(session: Session, path: str, told: dict[str, Any]) -> None:
    if not told:
        return  # its reader has gone, and wanted no more
    if session.json and path != "-":
        session.emit({"file": path, **told})
    else:
        packets = "1 packet" if told["packets"] == 1 else f"{told['packets']} packets"
        where = "" if path == "-" else f" in {path}"
        sys.stderr.write(
            f"{packets}{where}, {told['dropped']} dropped"
            f"{'' if told['reason'] in _STOPPED_WELL else ': ' + told['reason']}\n"
        )
