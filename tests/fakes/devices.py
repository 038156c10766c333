"""Removable devices of the machines of a `FakeHost`, with QEMU's contract (test_devices.py)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from labd.model.errors import GuestFailed, LaunchFailed, NodeGone, NodeUnresponsive, QmpRefused
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import DiskBus
from tests.fakes.host import FakeHost, FakeMachine


class FakeDevices:
    """Implements the port `Devices`: what a machine has is its `spec`.

    `host.clings` has the ids of devices that no guest lets go of; `host.no_place` those that QEMU
    refuses.
    """

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def _machine(self, key: str) -> FakeMachine:
        machine = self._host.machines.get(key)
        if machine is None:
            raise NodeGone(f"machine {key} does not run")
        if machine.hung:
            raise NodeUnresponsive(f"{machine.name} hangs")
        return machine

    async def plug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        found = self._machine(machine.key)
        if any(item.id == disk.id for item in found.spec.disks):
            return
        if not self._host.has_disk(disk.ref):
            raise LaunchFailed(f"cannot open {disk.ref}: No such file or directory")
        if disk.bus is DiskBus.IDE or disk.id in self._host.no_place:
            raise QmpRefused(f"QEMU refused device_add for {found.name}")
        found.spec = replace(found.spec, disks=(*found.spec.disks, disk))

    async def unplug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        found = self._machine(machine.key)
        left = tuple(item for item in found.spec.disks if item.id != disk.id)
        if left != found.spec.disks:
            self._let_go(found, disk.id)
        found.spec = replace(found.spec, disks=left)

    async def plug_nic(
        self, machine: MachineSpec, nic: Nic, open_tap: Callable[[], Awaitable[int]]
    ) -> None:
        found = self._machine(machine.key)
        if any(item.id == nic.id for item in found.spec.nics):
            return
        os.close(await open_tap())
        if nic.id in self._host.no_place:
            raise QmpRefused(f"QEMU refused device_add for {found.name}")
        found.spec = replace(found.spec, nics=(*found.spec.nics, nic))

    async def unplug_nic(self, machine: MachineSpec, nic: Nic) -> None:
        found = self._machine(machine.key)
        left = tuple(item for item in found.spec.nics if item.id != nic.id)
        if left != found.spec.nics:
            self._let_go(found, nic.id)
        found.spec = replace(found.spec, nics=left)

    async def change_medium(self, machine: MachineSpec, drive: Disk) -> None:
        found = self._machine(machine.key)
        if not drive.empty and not self._host.has_disk(drive.ref):
            raise LaunchFailed(f"cannot open {drive.ref}: No such file or directory")
        disks = tuple(drive if item.id == drive.id else item for item in found.spec.disks)
        found.spec = replace(found.spec, disks=disks)

    def _let_go(self, found: FakeMachine, name: str) -> None:
        if name in self._host.clings:
            raise GuestFailed(f"the guest of {found.name} did not let go of {name} within 20 s")
