"""`lab connect`: a TCP port of a node on stdin and stdout, or as a descriptor for ssh."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading

import click

from labd.cli.openssh import parse_host, write_key
from labd.cli.session import Session, verb
from labd.model.errors import InputError

_CHUNK = 1 << 16


@verb("connect")
@click.option(
    "--pass-fd", is_flag=True, help="Hand the connection to ssh by stdout (ProxyUseFdpass)."
)
@click.option("--identity", metavar="FILE", help="First write the lab's SSH key there.")
@click.argument("target", metavar="LAB/NODE|NODE.LAB.lab")
@click.argument("port", type=click.IntRange(1, 65535))
def connect(session: Session, pass_fd: bool, identity: str | None, target: str, port: int) -> None:
    """Connect stdin and stdout to a TCP port of a node."""
    lab, node = parse_host(target)
    out = sys.stdout.fileno()
    if pass_fd and not stat.S_ISSOCK(os.fstat(out).st_mode):
        raise InputError("--pass-fd is for ssh's ProxyUseFdpass, whose stdout is a socket")
    if identity is not None:
        write_key(identity, session.client.connect.key(lab)["private"])
    way = session.client.connect.to_node(lab, node, port)
    if pass_fd:
        with way, socket.socket(fileno=os.dup(out)) as ssh:
            socket.send_fds(ssh, [b"\0"], [way.fileno()])
        return
    _copy(way, out)


def _copy(way: socket.socket, out: int) -> None:
    """Copy until the node has said all; the end of stdin is passed on and ends nothing else."""
    way.setblocking(True)

    def send() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(sys.stdin.fileno(), _CHUNK):
                way.sendall(data)
            way.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    with contextlib.suppress(ConnectionError):
        while data := way.recv(_CHUNK):
            while data:
                data = data[os.write(out, data) :]
