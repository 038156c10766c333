"""dnsmasq's lease file. Pure but for reading it.

A line of IPv4 is `EXPIRY MAC ADDRESS NAME CLIENT`. After a line `duid …` come those of IPv6,
`EXPIRY IAID ADDRESS NAME DUID`, where the DUID may hold the client's MAC (RFC 8415, section 11).
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from labd.model.serving import Lease

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
_LIMIT = 4 << 20  # bytes; a guest cannot make it longer, for leases are limited
_LLT, _LL = "00:01:00:01:", "00:03:00:01:"  # DUIDs of Ethernet: with a time, and without


def parse(text: str) -> list[Lease]:
    """Return the leases of a file; lines of another form are left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or not _is_address(words[2]):
            continue
        _, link, address, name, client = words
        mac = link.lower() if _MAC.match(link.lower()) else _mac_of(client.lower())
        found.append(Lease(address=address, mac=mac, name="" if name == "*" else name))
    return found


def _mac_of(duid: str) -> str:
    mac = duid[-17:]
    lengths = {_LLT: len(_LLT) + 12 + 17, _LL: len(_LL) + 17}
    known = any(duid.startswith(kind) and len(duid) == size for kind, size in lengths.items())
    return mac if known and _MAC.match(mac) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read(path: Path) -> list[Lease]:
    """Return the leases of a file that is there or not. Blocks."""
    try:
        with path.open("rb") as file:
            return parse(file.read(_LIMIT).decode(errors="replace"))
    except OSError:
        return []


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
