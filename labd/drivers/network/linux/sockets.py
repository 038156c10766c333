"""End the TCP connections of a namespace, and tell how long they are quiet (sock_diag(7)).

Connections into a lab are handed out, and whoever holds one keeps the lab's namespace alive, with
its bridges, long after its name is gone. So they are ended before it: ssh and the like see an error
at once, instead of silence, and let go. Plain netlink, for pyroute2 has no call for it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from labd.model.errors import NetworkFailed

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBxI48s")  # inet_diag_req_v2; the 48 bytes are an inet_diag_sockid
_ID: Final = slice(4, 52)  # of an inet_diag_msg
_EVERY_STATE: Final = 0xFFFFFFFF
_TALKING: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8  # established, fin-wait-1 and -2, close-wait
_INET_DIAG_INFO: Final = 2
_MESSAGE: Final = 72  # bytes of an inet_diag_msg; attributes follow
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_LAST_DATA = struct.Struct(
    "=44xI4xI"
)  # of tcp_info (linux/tcp.h): milliseconds since sent, received
_TIMEOUT: Final = 2.0  # seconds; the kernel answers at once


def end_connections() -> int:
    """End every TCP socket of this namespace; return how many there were.

    Raises:
        NetworkFailed: The kernel cannot (CONFIG_INET_DIAG_DESTROY is missing).
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as line:
            line.settimeout(_TIMEOUT)
            line.bind((0, 0))
            found = [
                (family, identity)
                for family in (socket.AF_INET, socket.AF_INET6)
                for identity in _connections(line, family)
            ]
            for family, identity in found:
                _end(line, family, identity)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise NetworkFailed(f"ending connections: {reason}", errno=error.errno) from error
    return len(found)


def quiet_for() -> float | None:
    """Return the seconds since the last byte on any TCP connection of this namespace.

    None without a connection, or where the kernel does not tell (CONFIG_INET_DIAG is missing).
    """
    found: list[float] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as line:
            line.settimeout(_TIMEOUT)
            line.bind((0, 0))
            for family in (socket.AF_INET, socket.AF_INET6):
                wanted = (1 << (_INET_DIAG_INFO - 1), _TALKING)
                _ask(line, _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, family, bytes(48), wanted)
                found += [age for body in _dumped(line) if (age := _last_data(body)) is not None]
    except OSError:
        return None
    return min(found, default=None)


def _last_data(body: bytes) -> float | None:
    """Return the seconds since a connection carried a byte, either way; pure."""
    rest = body[_MESSAGE:]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _LAST_DATA.size:
            sent, received = _LAST_DATA.unpack_from(rest, _ATTRIBUTE.size)
            return float(min(sent, received)) / 1000
        rest = rest[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return None


def _ask(
    line: socket.socket,
    kind: int,
    flags: int,
    family: int,
    identity: bytes,
    wanted: tuple[int, int] = (0, _EVERY_STATE),
) -> None:
    """Send a request; `wanted` is its extensions and its states."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, *wanted, identity)
    line.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body)


def _messages(line: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message of one datagram."""
    data = line.recv(1 << 16)
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _failure(body: bytes) -> int:
    """Return the errno of an NLMSG_ERROR; 0 for an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0])


def _connections(line: socket.socket, family: int) -> Iterator[bytes]:
    _ask(line, _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, family, bytes(48))
    for body in _dumped(line):
        yield body[_ID]


def _dumped(line: socket.socket) -> Iterator[bytes]:
    while True:
        for kind, body in _messages(line):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = _failure(body)
                raise OSError(number, os.strerror(number))
            yield body


def _end(line: socket.socket, family: int, identity: bytes) -> None:
    _ask(line, _SOCK_DESTROY, _NLM_F_ACK, family, identity)
    for kind, body in _messages(line):
        number = _failure(body) if kind == _NLMSG_ERROR else 0
        # It may have ended by itself meanwhile.
        if number not in {0, errno.ENOENT}:
            raise OSError(number, os.strerror(number))
