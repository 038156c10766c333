"""What has passed the taps of a lab (rtnetlink `RTM_GETLINK`, `IFLA_STATS64`).

A glance reads proc_pid_net(5) instead, which takes a tenth of the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from labd.drivers.network.linux import netns
from labd.drivers.network.linux.links import requests
from labd.drivers.network.linux.sockets import quiet_for
from labd.host.threads import quick
from labd.model.activity import Glance
from labd.model.usage import PortUsage

_TAP = re.compile(r"t[a-z2-9]{6}[0-9]+")  # `shaping.tap_name`


class LabCounters:
    """Implements `drivers.network.port.Counters`."""

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        """Return interface name -> what has passed it; see the port."""
        if not await quick(netns.exists, namespace):
            return {}
        return await netns.inside(namespace, _read)

    async def glance(self, namespace: str) -> Glance:
        """Return what has passed the taps, and a connection; see the port."""
        if not netns.exists(namespace):
            return Glance()
        return await netns.inside(namespace, _glance)


def _glance() -> Glance:
    # Of the thread: /proc/self/net is the main thread's.
    text = Path("/proc/thread-self/net/dev").read_text()
    return Glance(packets=packets_of(text), quiet=quiet_for())


def packets_of(text: str) -> dict[str, int]:
    """Return tap -> packets both ways, from the text of /proc/net/dev; pure."""
    lines = [line.partition(":") for line in text.splitlines()]
    return {
        name.strip(): int(columns[1]) + int(columns[9])
        for name, colon, rest in lines
        if colon and _TAP.fullmatch(name.strip()) and (columns := rest.split())
    }


def _read() -> dict[str, PortUsage]:
    with requests("reading the counters of links") as route:
        return {
            str(link.get("ifname")): PortUsage(
                # The host's end of a tap sends what the guest receives.
                received_packets=int(stats["tx_packets"]),
                sent_packets=int(stats["rx_packets"]),
                received_bytes=int(stats["tx_bytes"]),
                sent_bytes=int(stats["rx_bytes"]),
            )
            for link in route.get_links()
            if (stats := link.get("stats64")) is not None
        }
