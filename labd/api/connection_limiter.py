"""How many connections one origin may hold: nobody takes labd's descriptors from the others.

Callers are bounded by who they are (`labd.api.limits`), which is known when a request has come. A
connection on which none comes costs a descriptor all the same, and everybody on the host, or who
reaches the port, may open them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Final
from weakref import WeakSet

from labd.api.authenticators import Peer
from labd.host.ratelimit import RateLimiter

log = logging.getLogger(__name__)

MOST: Final = 1_024  # connections of one server over TCP, or of one user of the host
_SHARE = 4  # of all descriptors, at most one part of this many
_SAY_AGAIN = 60.0  # seconds


def bound() -> int:
    """Return how many connections there may be of one user of the host."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // _SHARE)


class ConnectionLimiter:
    """The connections of one server, by where they come from.

    Args:
        each: Of one origin at one time.
        total: Of all at one time; None: no bound.
    """

    def __init__(self, each: int, total: int | None = None) -> None:
        self._each = each
        self._total = total
        self._open: dict[str, WeakSet[asyncio.BaseTransport]] = {}
        self._said = RateLimiter(1 / _SAY_AGAIN, 1)

    def admit(self, origin: str, transport: asyncio.BaseTransport) -> bool:
        """Count a connection, unless there are too many; tell whether it was."""
        if self._full(origin):
            self._forget()
            if self._full(origin):
                self._say(origin)
                return False
        self._open.setdefault(origin, WeakSet()).add(transport)
        return True

    def _full(self, origin: str) -> bool:
        if len(self._open.get(origin, ())) >= self._each:
            return True
        return self._total is not None and sum(map(len, self._open.values())) >= self._total

    def _say(self, origin: str) -> None:
        """Tell that a connection is cut off; not each time, for the log is to stay readable."""
        if not self._said.take():
            log.warning("%s has too many connections: new ones are cut off", origin)

    def _forget(self) -> None:
        """Forget those that have ended; nobody tells, as WebSockets leave their protocol."""
        for origin, transports in tuple(self._open.items()):
            for transport in tuple(transports):
                if transport.is_closing():
                    transports.discard(transport)
            if not transports:
                del self._open[origin]


def origin(transport: asyncio.BaseTransport, peer: Peer | None) -> str | None:
    """Return where a connection comes from, in words; None for root, who is not bounded."""
    if peer is not None:
        return None if peer.uid == 0 else f"user {peer.name}"
    address = transport.get_extra_info("peername")
    return str(address[0]) if address else "somebody"
