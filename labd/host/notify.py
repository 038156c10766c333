"""Telling the service manager how labd is: the sd_notify(3) protocol, one datagram a message."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from labd.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends to the socket named by NOTIFY_SOCKET; does nothing when there is none.

    Attributes:
        address: Path of the socket, with `@` first for the abstract namespace; empty for none.
    """

    address: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Read NOTIFY_SOCKET.

        Raises:
            ConfigError: It is neither an absolute path nor an abstract name.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            raise ConfigError(f"NOTIFY_SOCKET {address!r} is no unix socket: unset it")
        return cls(address)

    def ready(self, status: str = "") -> bool:
        """Tell that start-up is complete."""
        return self._send("READY=1", f"MAINPID={os.getpid()}", status=status)

    def stopping(self, status: str = "") -> bool:
        """Tell that shutdown has begun."""
        return self._send("STOPPING=1", status=status)

    def status(self, status: str) -> bool:
        """Tell in a line what is being done."""
        return self._send(status=status)

    def _send(self, *fields: str, status: str = "") -> bool:
        """Send; False when there is no manager, or it does not listen any more."""
        if not self.address:
            return False
        lines = [*fields]
        if status:
            lines.append("STATUS=" + " ".join(status.split()))
        name = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # A manager that does not read must not hang the daemon.
            channel.setblocking(False)
            try:
                channel.sendto("\n".join(lines).encode(), name)
            except OSError:
                return False
        return True
