"""`lab forward` and `lab proxy`: in the foreground, until they are interrupted."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

import click

from labd.cli.listening import listen, serve
from labd.cli.session import Session, node_ref, verb
from labd.client.relay import Relays
from labd.model.errors import LabdError
from labd.model.publish import endpoint, parse_publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SOCKS_PORT = 1080
_RELAYS = Relays()


@verb("forward")
@click.argument("ref", metavar="LAB/NODE")
@click.argument("forwards", nargs=-1, required=True, metavar="[HOST:]HOSTPORT:PORT...")
def forward(session: Session, ref: str, forwards: tuple[str, ...]) -> None:
    """Lead TCP ports of this host to ports of a node, until interrupted.

    HOST is 127.0.0.1 when it is left out. With HOSTPORT 0 one is chosen; the line that is printed
    for each tells which.
    """
    lab, node = node_ref(ref)
    specs = [parse_publish(text) for text in forwards]
    session.client.node(lab, node)
    listeners = [(listen(spec.address, spec.host_port), spec) for spec in specs]
    told = []
    for listener, spec in listeners:
        port = listener.getsockname()[1]
        told.append({"address": spec.address, "host_port": port, "port": spec.port})
        if not session.json:
            session.say(f"{endpoint(spec.address, port)} -> {ref}:{spec.port}")
    if session.json:
        session.emit({"forwards": told})
    sys.stdout.flush()
    serve([(listener, _handler(session, lab, node, spec.port)) for listener, spec in listeners])


def _handler(session: Session, lab: str, node: str, port: int) -> Callable[[socket.socket], None]:
    ways = session.client.connect

    def handle(caller: socket.socket) -> None:
        try:
            way = ways.to_node(lab, node, port)
        except LabdError as error:
            session.note(f"lab: {error.message}")
            _reset(caller)
            return
        _join(caller, way)

    return handle


@verb("proxy")
@click.argument("lab", metavar="LAB")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_SOCKS_PORT,
    show_default=True,
    help="0: one is chosen.",
)
def proxy(session: Session, lab: str, port: int) -> None:
    """Serve as a SOCKS5 proxy into a lab on 127.0.0.1, until interrupted.

    Names of nodes are looked up in the lab, so let the client leave names to the proxy (socks5h).
    """
    from labd.cli.socks import Unsuitable, accept

    session.client.lab(lab)
    ways = session.client.connect
    listener = listen("127.0.0.1", port)
    chosen = listener.getsockname()[1]
    if session.json:
        session.emit({"address": "127.0.0.1", "port": chosen, "url": _url(chosen)})
    else:
        session.say(_url(chosen))
    sys.stdout.flush()

    def handle(caller: socket.socket) -> None:
        try:
            way = accept(caller, lambda host, port: ways.to_host(lab, host, port))
        except (Unsuitable, OSError):
            caller.close()
        except LabdError as error:
            session.note(f"lab: {error.message}")
            caller.close()
        else:
            _join(caller, way)

    serve([(listener, handle)])


def _url(port: int) -> str:
    return f"socks5h://127.0.0.1:{port}"


def _join(caller: socket.socket, way: socket.socket) -> None:
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _RELAYS.add(caller, way)


def _reset(caller: socket.socket) -> None:
    """Refuse a connection that was accepted (socket(7), SO_LINGER)."""
    with contextlib.suppress(OSError):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
