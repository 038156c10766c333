"""`lab screenshot`, `lab type` and `lab vnc`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import click

from labd.cli.session import Session, node_ref, verb
from labd.cli.writing import writing
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_CHUNK = 64 << 10


@verb("screenshot")
@click.argument("ref", metavar="LAB/NODE")
@click.option("-o", "--output", metavar="FILE", help="Else LAB-NODE.png; `-` is stdout.")
def screenshot(session: Session, ref: str, output: str | None) -> None:
    """Take a picture of a node's screen and write it as PNG; the node needs `display: vnc`."""
    lab, node = node_ref(ref)
    picture = session.client.screens.screenshot(lab, node)
    path = output or f"{lab}-{node}.png"
    if path == "-":
        sys.stdout.buffer.write(picture)
        return
    with writing(path, "-o") as file:
        file.write(picture)
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))  # PNG's IHDR
    if session.json:
        session.emit({"file": path, "width": width, "height": height, "bytes": len(picture)})
    else:
        session.say(f"{path}: {width}x{height}")


@verb("type")
@click.argument("ref", metavar="LAB/NODE")
@click.argument("text", default="")
@click.option("--key", "keys", multiple=True, metavar="KEYS", help="Such as ctrl-alt-f2 or enter.")
@click.option("--enter", is_flag=True, help="Press Enter after the text.")
def type_(session: Session, ref: str, text: str, keys: tuple[str, ...], enter: bool) -> None:
    """Type TEXT on a node's keyboard (US layout), then the keys of each --key, in order.

    It goes to the screen of the node, not to its serial line: see `lab console` for that.
    """
    lab, node = node_ref(ref)
    count = session.client.screens.type(lab, node, text + "\n" * enter, keys)
    if session.json:
        session.emit({"lab": lab, "node": node, "keys": count})


@verb("vnc")
@click.argument("ref", metavar="LAB/NODE")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Else one that is free.")
@click.option("--open", "open_", is_flag=True, help="Open it with what the desktop has for vnc:.")
def vnc(session: Session, ref: str, port: int, open_: bool) -> None:
    """Forward a node's screen to 127.0.0.1 for a VNC viewer, until Ctrl-C.

    Everybody on this machine can connect to the address while the command runs.
    """
    lab, node = node_ref(ref)
    with _connect(session, lab, node):
        pass  # what is wrong is told at once
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise InputError(
            f"cannot listen on 127.0.0.1:{port}: {why}; choose another --port"
        ) from error
    with listener:
        host, number = listener.getsockname()
        if session.json:
            session.emit({"address": host, "port": number})
        else:
            session.say(f"vnc://{host}:{number}")
            session.note(f"the screen of {ref} is there until Ctrl-C")
        sys.stdout.flush()
        if open_:
            click.launch(f"vnc://{host}:{number}")
        while True:
            viewer, _ = listener.accept()
            threading.Thread(target=_serve, args=(session, lab, node, viewer), daemon=True).start()


type = type_  # noqa: A001 -- the verb's name, by which it is found


def _connect(session: Session, lab: str, node: str) -> ClientConnection:
    return session.websocket(f"/v1/labs/{lab}/nodes/{node}/vnc")


def _serve(session: Session, lab: str, node: str, viewer: socket.socket) -> None:
    """Connect one viewer with the screen until either ends."""
    from labd.model.errors import LabdError

    with viewer:
        try:
            stream = _connect(session, lab, node)
        except LabdError as error:
            session.note(f"lab: {error.message}")
            return
        with stream:
            threading.Thread(target=_to_viewer, args=(stream, viewer), daemon=True).start()
            with contextlib.suppress(OSError):
                while data := viewer.recv(_CHUNK):
                    if not _send(stream, data):
                        return


def _send(stream: ClientConnection, data: bytes) -> bool:
    from websockets.exceptions import ConnectionClosed

    try:
        stream.send(data)
    except ConnectionClosed:
        return False
    return True


def _to_viewer(stream: ClientConnection, viewer: socket.socket) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed, OSError):
        while True:
            data = stream.recv()
            viewer.sendall(data if isinstance(data, bytes) else data.encode())
    with contextlib.suppress(OSError):
        viewer.shutdown(socket.SHUT_RDWR)
