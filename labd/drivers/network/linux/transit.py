"""The addresses between labs and the host: a /30 of the pool for each lab. Pure."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Iterable

from labd.drivers.network.linux.rules import Transit
from labd.model.errors import InputError

_LENGTH = 30  # two hosts: the host's end and the lab's


def choose(
    pool: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network], seed: str
) -> Transit:
    """Return a free pair of addresses.

    The search begins where the seed says, so that two daemons seldom meet.

    Args:
        pool: Of the configuration.
        taken: Every subnet that the host has an address in or a route to, less the default ones.
        seed: Names the lab.

    Raises:
        InputError: The pool is full, or the host uses all of it otherwise.
    """
    first, last = int(pool.network_address), int(pool.broadcast_address)
    overlapping = [net for net in taken if net.overlaps(pool)]
    if any(net.supernet_of(pool) for net in overlapping):
        raise InputError(
            f"the host has a route to {pool}, from which labs' transit addresses come; write "
            "another subnet as transit in [network] of labd.toml"
        )
    blocked = {
        block
        for net in overlapping
        for block in range(
            (int(net.network_address) - first) >> 2, ((int(net.broadcast_address) - first) >> 2) + 1
        )
    }
    count = (last - first + 1) >> (32 - _LENGTH)
    start = zlib.crc32(seed.encode()) % count
    for step in range(count):
        block = (start + step) % count
        if block not in blocked:
            return of_host(ipaddress.IPv4Address(first + (block << 2) + 1))
    raise InputError(
        f"all transit addresses of {pool} are taken; destroy a lab, or write a wider subnet as "
        "transit in [network] of labd.toml"
    )


def of_host(address: ipaddress.IPv4Address) -> Transit:
    """Return the pair whose host's end has this address."""
    return Transit(host=address, lab=address + 1)
