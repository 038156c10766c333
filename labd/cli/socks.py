"""The server's side of SOCKS 5 (RFC 1928): CONNECT without authentication."""

from __future__ import annotations

import errno
import ipaddress
import socket

from labd.model.errors import (
    Conflict,
    DaemonUnreachable,
    InputError,
    LabdError,
    NotFound,
    WorldError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = 5
_NO_AUTHENTICATION, _NO_METHOD = 0x00, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
# RFC 1928, 6.
_OK, _FAULT, _UNREACHABLE, _REFUSED, _NO_COMMAND, _NO_ADDRESS = 0, 1, 4, 5, 7, 8
_PATIENCE = 10.0  # seconds for the greeting


class Unsuitable(Exception):
    """The caller wants what this proxy has not, or is no SOCKS 5 client; it was told."""


def accept(caller: socket.socket, way_to: Callable[[str, int], socket.socket]) -> socket.socket:
    """Greet a caller, make the connection that it asks for, and tell it.

    Args:
        caller: A blocking socket.
        way_to: Connects to a host name or address, and a port.

    Raises:
        Unsuitable: There is nothing more to be done with the caller.
        LabdError: `way_to` failed; the caller was told by the reply's code.
    """
    caller.settimeout(_PATIENCE)
    try:
        host, port = _request(caller)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unsuitable(str(error)) from error
    caller.settimeout(None)
    try:
        way = way_to(host, port)
    except LabdError as error:
        caller.sendall(_reply(_code(error)))
        raise
    caller.sendall(_reply(_OK))
    return way


def _request(caller: socket.socket) -> tuple[str, int]:
    version, count = _exactly(caller, 2)
    if version != _VERSION:
        raise Unsuitable(f"SOCKS version {version}")
    if _NO_AUTHENTICATION not in _exactly(caller, count):
        caller.sendall(bytes([_VERSION, _NO_METHOD]))
        raise Unsuitable("it wants authentication")
    caller.sendall(bytes([_VERSION, _NO_AUTHENTICATION]))
    _, command, _, kind = _exactly(caller, 4)
    if kind == _IPV4:
        host = str(ipaddress.IPv4Address(_exactly(caller, 4)))
    elif kind == _IPV6:
        host = str(ipaddress.IPv6Address(_exactly(caller, 16)))
    elif kind == _NAME:
        host = _exactly(caller, _exactly(caller, 1)[0]).decode("ascii")
    else:
        caller.sendall(_reply(_NO_ADDRESS))
        raise Unsuitable(f"address type {kind}")
    port = int.from_bytes(_exactly(caller, 2), "big")
    if command != _CONNECT:
        caller.sendall(_reply(_NO_COMMAND))
        raise Unsuitable(f"command {command}")
    return host, port


def _exactly(caller: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = caller.recv(count - len(data))
        if not chunk:
            raise EOFError("it left in the midst of a word")
        data += chunk
    return data


def _reply(code: int) -> bytes:
    """Return a reply; the bound address is of no use to a caller and therefore zero."""
    return bytes([_VERSION, code, 0, _IPV4]) + bytes(6)


def _code(error: LabdError) -> int:
    if isinstance(error, NotFound | InputError | Conflict):
        return _UNREACHABLE
    if isinstance(error, DaemonUnreachable):
        return _FAULT
    if isinstance(error, WorldError) and error.details.get("errno") == errno.ECONNREFUSED:
        return _REFUSED
    return _UNREACHABLE
