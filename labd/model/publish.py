"""`[HOST:]HOSTPORT:PORT`: a TCP port of a node and the port of the host that leads to it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from labd.model.errors import InputError
from labd.model.specs import PublishSpec


class Bound(StrEnum):
    """Of what a published port has as many connections as it may."""

    PORT = "port"
    LAB = "lab"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """How many connections there may be at one time.

    Attributes:
        port: Of one published port.
        lab: Of all published ports of a lab.
        host: Of all labs.
    """

    port: int
    lab: int
    host: int


_FORM = re.compile(
    r"(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):)?(?P<here>[0-9]{1,5}):(?P<there>[0-9]{1,5})\Z"
)
_HELP = "write it like 8080:80, 0:22 or 127.0.0.1:8080:80"
_LAST = 65535


def parse_publish(text: str) -> PublishSpec:
    """Return what `[HOST:]HOSTPORT:PORT` says; without HOST it is the loopback, 127.0.0.1.

    HOST is an address, in brackets for IPv6. A HOSTPORT of 0 means that one is chosen.

    Raises:
        InputError: It is nothing of the kind.
    """
    found = _FORM.match(text)
    if found is None:
        raise InputError(f"{text[:64]!r} is no port forward: {_HELP}")
    here, there = int(found["here"]), int(found["there"])
    if here > _LAST or not 1 <= there <= _LAST:
        raise InputError(
            f"{text[:64]!r} has a wrong port: the host's is 0 to {_LAST}, the node's 1 to {_LAST}"
        )
    host = found["host"]
    if host is None:
        return PublishSpec(port=there, host_port=here)
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        raise InputError(f"{text[:64]!r}: {host[:64]!r} is no address; {_HELP}") from None
    return PublishSpec(port=there, address=address, host_port=here)


def endpoint(address: str, port: int) -> str:
    """Return `address:port`, with brackets around an IPv6 address (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def format_publish(spec: PublishSpec) -> str:
    """Return the text that `parse_publish` reads."""
    return f"{endpoint(spec.address, spec.host_port)}:{spec.port}"
