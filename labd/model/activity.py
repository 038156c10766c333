"""What people and programs did with a lab. Values only; the feature `activity` has the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# Packets a minute at one NIC that are nobody's work: ARP, hellos of routers, neighbour discovery.
BACKGROUND = 120


class Source(StrEnum):
    """By what a lab was active."""

    START = "start"  # labd began to watch: the lab came up, or labd itself did
    OPERATION = "operation"  # up, start, restart, save, ...: something was asked for
    CONSOLE = "console"  # attached to, or typed into
    SCREEN = "screen"  # looked at, typed to, or clicked
    EXEC = "exec"
    COPY = "copy"
    CONNECTION = "connection"  # ssh, forward, proxy, published ports: made, or bytes on one
    CAPTURE = "capture"
    TRAFFIC = "traffic"  # more packets at a NIC than `BACKGROUND`


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What the network of a lab shows.

    Attributes:
        packets: Interface name -> packets that have passed it, both ways.
        quiet: Seconds since the last byte on a TCP connection from outside; None without one, or
            where the kernel does not tell (CONFIG_INET_DIAG).
    """

    packets: Mapping[str, int] = field(default_factory=dict)
    quiet: float | None = None
