"""Ways into labs: `Client.ways`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading

from labd.client.places import by_token_only, connect_unix, websocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from labd.client import types
    from labd.client.transport import Transport

_LIMIT = 1 << 16  # bytes of an answer
_CHUNK = 1 << 15  # bytes of a message; labd takes twice as much


def _from_labd(stream: ClientConnection, way: socket.socket, kept: contextlib.ExitStack) -> None:
    """Copy what the node says; an empty message is the end of this way."""
    from websockets.exceptions import WebSocketException

    try:
        for message in stream:
            if not message:
                way.shutdown(socket.SHUT_WR)
                continue
            way.sendall(message if isinstance(message, bytes) else message.encode())
    except (OSError, WebSocketException):
        pass
    with kept, way, contextlib.suppress(OSError):
        way.shutdown(socket.SHUT_RDWR)  # the other thread wakes up


def _to_labd(stream: ClientConnection, way: socket.socket, _: contextlib.ExitStack) -> None:
    """Copy what the caller says; the end of this way is told by an empty message."""
    from websockets.exceptions import WebSocketException

    try:
        while data := way.recv(_CHUNK):
            stream.send(data)
        stream.send(b"")
    except (OSError, WebSocketException):
        stream.close()


class Connect:
    """Connections to nodes that need no route, and the labs' SSH keys."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def key(self, lab: str) -> types.SshKey:
        """Return the key pair that every node of a lab takes."""
        from urllib.parse import quote

        found: types.SshKey = self._transport.json("GET", f"/v1/labs/{quote(lab)}/ssh-key")
        return found

    def to_node(self, lab: str, node: str, port: int) -> socket.socket:
        """Return a socket that is connected to a TCP port of a node.

        It was made inside the lab and is handed over by the daemon, so that bytes go straight to
        the kernel; for callers on the daemon's host, by the administrators' socket.

        Raises:
            LabdError: What the daemon said.
            DaemonUnreachable: There was no answer.
        """
        if self._by_websocket:
            return self._over(f"/v1/labs/{lab}/nodes/{node}/connect?port={port}")
        return self._ask({"lab": lab, "node": node, "port": port})

    def to_host(self, lab: str, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to a node's name or an address of a lab.

        Raises:
            LabdError, DaemonUnreachable: As in `to_node`.
        """
        if self._by_websocket:
            from urllib.parse import quote

            return self._over(f"/v1/labs/{lab}/connect?host={quote(host, safe='')}&port={port}")
        return self._ask({"lab": lab, "host": host, "port": port})

    @property
    def _by_websocket(self) -> bool:
        """Whether descriptors cannot be had: labd is elsewhere, or the caller has but a token."""
        return by_token_only(self._transport.path, self._transport.token)

    def _over(self, target: str) -> socket.socket:
        """Return one end of a pair whose other end is led over a WebSocket by two threads."""
        with contextlib.ExitStack() as stack:
            opened = websocket(self._transport.path, self._transport.token, target)
            stream = stack.enter_context(opened)
            ours, theirs = socket.socketpair()
            kept = stack.pop_all()
        for work in (_from_labd, _to_labd):
            threading.Thread(target=work, args=(stream, theirs, kept), daemon=True).start()
        return ours

    def _ask(self, request: dict[str, object]) -> socket.socket:
        path = os.path.join(os.path.dirname(self._transport.path), "connect.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(self._transport.timeout)
            try:
                connect_unix(channel, path)
                channel.sendall(json.dumps(request).encode() + b"\n")
                data, fds, _, _ = socket.recv_fds(channel, _LIMIT, 1)
                while not fds and (more := channel.recv(_LIMIT)):
                    data += more
            except OSError as error:
                from labd.client.errors import unreachable

                raise unreachable(path, error) from error
        if fds:
            return socket.socket(fileno=fds[0])
        from labd.client.errors import from_way

        raise from_way(path, data)
