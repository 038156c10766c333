"""Devices that come and go while QEMU runs (`drivers.node.capabilities.Devices`).

What is plugged is made from the same values as the command line, so that a start from nothing, or
from a saved state, finds the same devices in the same places. Source: QEMU's qapi/qdev.json,
qapi/block-core.json and docs/pcie_pci_bridge.txt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, cast

from labd.drivers.node.qemu import devices, process
from labd.drivers.node.qemu.devices import Device
from labd.drivers.node.qemu.vm import Vm
from labd.drivers.storage.port import BlockStorage
from labd.model.errors import GuestFailed, LabdError, QmpRefused
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import Firmware

UNPLUG_TIMEOUT: Final = 20.0  # seconds for a guest to let go of a device
_LOOK_AGAIN = 1.0  # seconds: an event may be missed while the monitor is connected anew
_LET_GO = 2.0  # seconds from the end of a device until its drive is free
_FDSET = re.compile(r"/dev/fdset/(\d+)\Z")


class QemuDevices:
    """The removable devices of the machines of one hypervisor.

    Args:
        find: Machine key -> running machine; raises NodeGone.
        storage: Opens the disks.
        unplug_timeout: Seconds for a guest to let go of a device.
    """

    def __init__(
        self,
        find: Callable[[str], Vm],
        storage: BlockStorage,
        unplug_timeout: float = UNPLUG_TIMEOUT,
    ) -> None:
        self._storage = storage
        self._find = find
        self._timeout = unplug_timeout

    async def plug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        """Attach a disk (QMP `add-fd`, `blockdev-add`, `device_add`); see the port."""
        vm = self._find(machine.key)
        if await _is_there(vm, disk.id):
            return
        await _remove_blocks(vm, disk.id)
        await _add_blocks(vm, self._storage, machine, disk)
        try:
            await vm.execute("device_add", _device(machine, disk.id))
        except QmpRefused:
            await _remove_blocks(vm, disk.id)
            raise

    async def unplug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        """Detach a disk (QMP `device_del`, `blockdev-del`, `remove-fd`); see the port."""
        vm = self._find(machine.key)
        await self._unplug(vm, disk.id, f"disk {disk.serial or disk.id}")
        await _remove_blocks(vm, disk.id)

    async def plug_nic(
        self, machine: MachineSpec, nic: Nic, open_tap: Callable[[], Awaitable[int]]
    ) -> None:
        """Attach a NIC (QMP `getfd`, `netdev_add`, `device_add`); see the port."""
        vm = self._find(machine.key)
        if await _is_there(vm, nic.id):
            return
        name = f"tap-{nic.id}"
        # What an earlier daemon left holds the tap, and it could not be opened again.
        await _remove_netdev(vm, nic.id)
        with contextlib.suppress(QmpRefused):
            await vm.execute("closefd", {"fdname": name})
        with ExitStack() as stack:
            tap = await open_tap()
            stack.callback(os.close, tap)
            await vm.monitor.hand_over(name, tap)
            await vm.execute("netdev_add", {"type": "tap", "id": nic.id, "fd": name})
            try:
                await vm.execute("device_add", _device(machine, nic.id))
            except QmpRefused:
                await _remove_netdev(vm, nic.id)
                raise

    async def unplug_nic(self, machine: MachineSpec, nic: Nic) -> None:
        """Detach a NIC (QMP `device_del`, `netdev_del`); see the port."""
        vm = self._find(machine.key)
        await self._unplug(vm, nic.id, f"NIC {nic.mac}")
        await _remove_netdev(vm, nic.id)

    async def change_medium(self, machine: MachineSpec, drive: Disk) -> None:
        """Change a CD (QMP `blockdev-open-tray` to `blockdev-close-tray`); see the port."""
        vm = self._find(machine.key)
        which: dict[str, object] = {"id": f"dev-{drive.id}"}
        # By force: a guest that has mounted the CD keeps the tray locked.
        await vm.execute("blockdev-open-tray", {**which, "force": True})
        await vm.execute("blockdev-remove-medium", which)
        await _remove_blocks(vm, drive.id)
        if not drive.empty:
            await _add_blocks(vm, self._storage, machine, drive)
            try:
                await vm.execute("blockdev-insert-medium", {**which, "node-name": drive.id})
            except QmpRefused:
                await _remove_blocks(vm, drive.id)
                raise
        await vm.execute("blockdev-close-tray", which)

    async def _unplug(self, vm: Vm, name: str, what: str) -> None:
        """Ask for the removal of a device and wait for it (event DEVICE_DELETED)."""
        if not await _is_there(vm, name):
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        gone = vm.unplugged
        # Asked for before, and not done yet: QEMU says no, and the guest may still do it.
        with contextlib.suppress(QmpRefused):
            await vm.execute("device_del", {"id": f"dev-{name}"})
        while await _is_there(vm, name):
            left = end - loop.time()
            if left <= 0:
                raise GuestFailed(
                    f"the guest of {vm.name} did not let go of {what} within {self._timeout:g} s; "
                    f"try again when it has booted, or stop it first: `lab stop {vm.name}`"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), min(left, _LOOK_AGAIN))
            gone = vm.unplugged


async def _is_there(vm: Vm, name: str) -> bool:
    """True if QEMU has the device of a disk or NIC."""
    found = await vm.execute("qom-list", {"path": "/machine/peripheral"})
    entries = cast("list[Mapping[str, object]]", found)
    return any(entry["name"] == f"dev-{name}" for entry in entries)


def _device(machine: MachineSpec, name: str) -> Device:
    """Return the device as the command line would have it.

    But for its place in the boot order, which is read at a start only, and may be taken by now.
    """
    wanted = f"dev-{name}"
    device = next(item for item in devices.devices(machine) if item["id"] == wanted)
    return {key: value for key, value in device.items() if key != "bootindex"}


async def _add_blocks(vm: Vm, storage: BlockStorage, machine: MachineSpec, disk: Disk) -> None:
    """Hand QEMU the layers of a disk and make its block nodes; nothing is left on failure."""
    alone = replace(machine, disks=(disk,), firmware=Firmware.BIOS)
    sets: dict[str, int] = {}
    try:
        with ExitStack() as opened:
            attached = await process.attach_disks(alone, storage, opened)
            for name, layer in attached.items():
                if layer.fd is not None:
                    sets[name] = await vm.monitor.add_descriptor(layer.fd, name)
            nodes = devices.blockdevs(alone, attached)
        for node in nodes:
            name = str(node["node-name"])
            place = {"filename": f"/dev/fdset/{sets[name]}"} if name in sets else {}
            await vm.execute("blockdev-add", {**node, **place})
    except LabdError:
        with contextlib.suppress(LabdError):  # the error that brought us here is the one to tell
            await _remove_blocks(vm, disk.id)
            for number in sets.values():
                await _remove_set(vm, number)
        raise


async def _remove_blocks(vm: Vm, name: str) -> None:
    """Remove the block nodes of a disk with their descriptors, the uppermost first."""
    found = await vm.execute("query-named-block-nodes", {"flat": True})
    nodes = {
        str(node["node-name"]): str(node.get("file", ""))
        for node in cast("list[Mapping[str, object]]", found)
    }
    own = [node for node in nodes if node == name or node.startswith(f"{name}-")]
    for node in sorted(own, key=lambda node: (node.endswith("-f"), node)):
        await _delete_block(vm, node)
        place = _FDSET.match(nodes[node])
        if place is not None and node.endswith("-f"):
            await _remove_set(vm, int(place[1]))


async def _delete_block(vm: Vm, node: str) -> None:
    """Remove a block node; a device that has just gone may let go of it a moment later (RCU)."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _LET_GO
    while True:
        try:
            await vm.execute("blockdev-del", {"node-name": node})
        except QmpRefused:
            if loop.time() > end:
                raise
            await asyncio.sleep(_LET_GO / 50)
        else:
            return


async def _remove_set(vm: Vm, number: int) -> None:
    with contextlib.suppress(QmpRefused):  # it went with its last user
        await vm.execute("remove-fd", {"fdset-id": number})


async def _remove_netdev(vm: Vm, name: str) -> None:
    with contextlib.suppress(QmpRefused):  # there is none
        await vm.execute("netdev_del", {"id": name})
