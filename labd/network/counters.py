"""What has passed the taps of a lab (rtnetlink `RTM_GETLINK`, `IFLA_STATS64`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from labd.model.usage import PortUsage
from labd.network import netns
from labd.network.links import requests


class LabCounters:
    """Implements `engine.ports_usage.Counters`."""

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        """Return interface name -> what has passed it; see the port."""
        if not await asyncio.to_thread(netns.exists, namespace):
            return {}
        return await netns.inside(namespace, _read)


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
