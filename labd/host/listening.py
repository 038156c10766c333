"""Listening for people on TCP: the socket, and the files of TLS."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from labd.model.errors import ConfigError

_BACKLOG = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to listen: a name or address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Return the endpoint of `host:port` or `[v6]:port`.

        Raises:
            ValueError: It is none.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError("must be like 127.0.0.1:8443 or [::1]:8443")
        return cls(host=host, port=int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this host gets there."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_tcp(endpoint: Endpoint) -> socket.socket:
    """Return a socket that is bound, and listens when it is served.

    Raises:
        ConfigError: It cannot be had; the message says why, and what to write.
    """
    try:
        infos = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = infos[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise ConfigError(
            f"[api] listen: {endpoint.host} is no address of this host ({error.strerror})"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        why = {
            errno.EADDRINUSE: "is in use by another program; stop it, or choose another port",
            errno.EADDRNOTAVAIL: "is no address of this host; write one of `ip address`",
        }.get(error.errno or 0, f"cannot be had: {os.strerror(error.errno or 0)}")
        raise ConfigError(f"[api] listen: {endpoint} {why}") from error
    return listener


def check_tls(certificate: Path, key: Path) -> None:
    """Raise ConfigError unless a certificate and its key can be used.

    Raises:
        ConfigError: They cannot; the message names the file.
    """
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"[api] {name}: {path} cannot be read: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_nobody)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"[api] certificate: {certificate} and {key} are no PEM certificate with its key: "
            f"{getattr(error, 'reason', None) or error}"
        ) from error


def _nobody() -> str:
    """Give no password: a key that needs one cannot be used by a daemon."""
    raise ValueError("the key has a password; write it without one")
