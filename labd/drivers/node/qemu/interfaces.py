"""What a guest says of its network interfaces (`drivers.node.capabilities.Interfaces`)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from labd.drivers.node.qemu.vm import Vm
from labd.model.serving import GuestInterface

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
_MOST: Final = 64  # interfaces of a guest, and addresses of one, that are looked at


class QemuInterfaces:
    """The interfaces of the guests of one hypervisor.

    Args:
        find: Machine key -> running machine; raises NodeGone.
    """

    def __init__(self, find: Callable[[str], Vm]) -> None:
        self._find = find

    async def interfaces(self, key: str, timeout: float) -> Sequence[GuestInterface]:
        """Ask the guest agent; see the port."""
        return read(await self._find(key).agent.interfaces(timeout))


def read(answer: object) -> list[GuestInterface]:
    """Return what `guest-network-get-interfaces` answered; a guest may answer anything."""
    found = []
    for entry in answer[:_MOST] if isinstance(answer, list) else ():
        if not isinstance(entry, Mapping):
            continue
        name, mac = entry.get("name"), entry.get("hardware-address")
        if not isinstance(name, str) or not isinstance(mac, str) or not _MAC.match(mac.lower()):
            continue
        addresses = tuple(_addresses(entry.get("ip-addresses")))
        clean = "".join(filter(str.isprintable, name))[:32]
        found.append(GuestInterface(name=clean, mac=mac.lower(), addresses=addresses))
    return found


def _addresses(entries: object) -> Iterator[str]:
    for entry in entries[:_MOST] if isinstance(entries, list) else ():
        text = entry.get("ip-address") if isinstance(entry, Mapping) else None
        try:
            # What follows a % may be anything.
            plain = text.partition("%")[0] if isinstance(text, str) else ""
            address = ipaddress.ip_address(plain)
        except ValueError:
            continue
        if not address.is_loopback and not address.is_link_local:
            yield str(address)
