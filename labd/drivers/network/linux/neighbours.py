"""The kernel's neighbour table of a namespace (RFC 4861's states, linux/neighbour.h)."""

from __future__ import annotations

from typing import Final

from labd.drivers.network.linux.links import requests
from labd.model.serving import Neighbour

_REACHABLE: Final = 0x02
_HEARD: Final = _REACHABLE | 0x04 | 0x08 | 0x10  # stale, delay and probe: it was reachable once


def read() -> list[Neighbour]:
    """Return who answered on the bridges of this namespace, with whom labd had to do."""
    with requests("reading the neighbour table") as route:
        names = {link["index"]: str(link.get("ifname")) for link in route.get_links()}
        return [
            Neighbour(
                address=str(entry.get("dst")),
                mac=str(entry.get("lladdr")).lower(),
                bridge=names.get(entry["ifindex"], ""),
                reachable=bool(entry["state"] & _REACHABLE),
            )
            for entry in route.get_neighbours()
            if entry["state"] & _HEARD and entry.get("lladdr") and entry.get("dst")
        ]
