"""Ways into labs: `Client.ways`."""

from __future__ import annotations

import json
import os
import socket

from labd.client.transport import connect_unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client import types
    from labd.client.transport import Transport

_LIMIT = 1 << 16  # bytes of an answer


class Ways:
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
        return self._ask({"lab": lab, "node": node, "port": port})

    def to_host(self, lab: str, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to a node's name or an address of a lab.

        Raises:
            LabdError, DaemonUnreachable: As in `to_node`.
        """
        return self._ask({"lab": lab, "host": host, "port": port})

    def _ask(self, request: dict[str, object]) -> socket.socket:
        path = os.path.join(os.path.dirname(self._transport.path), "ways.sock")
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
