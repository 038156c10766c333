"""The carrier that a guest sees (`drivers.node.capabilities.Carriers`)."""

from __future__ import annotations

from collections.abc import Callable

from labd.drivers.node.qemu.vm import Vm


class QemuCarriers:
    """Carriers of the NICs of one hypervisor's machines.

    Args:
        find: Machine key -> running machine; raises NodeGone.
    """

    def __init__(self, find: Callable[[str], Vm]) -> None:
        self._find = find

    async def set_carrier(self, key: str, nic: str, *, up: bool) -> None:
        """Switch it (QMP `set_link`); see the port.

        Asked of the backend, QEMU switches the card too, and the guest is told.
        """
        await self._find(key).execute("set_link", {"name": nic, "up": up})
