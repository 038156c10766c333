"""What the engine may rely on of removable devices, on the fake and on real QEMU alike.

That a guest lets go of a device needs a guest: see tests/system/test_qemu_plug.py.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from labd.drivers.network.linux.links import _open_tap
from labd.drivers.node.capabilities import Devices
from labd.drivers.node.port import NodePort
from labd.drivers.node.qemu import QemuDevices, QemuHypervisor
from labd.model.disks import NO_DISK
from labd.model.errors import GuestFailed, LaunchFailed, NodeGone, QmpRefused
from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import DiskBus
from tests.disks import FileDisks, at
from tests.fakes.devices import FakeDevices
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.guests import UP, machine_spec

NIC = Nic(id="n0", mac="02:00:00:00:00:10", slot=0)
DRIVE = Disk(id="cd0", ref=NO_DISK, format=ImageFormat.RAW, cdrom=True, empty=True)


@dataclass
class Rig:
    hv: NodePort
    devices: Devices
    machine: MachineSpec
    disk: Disk
    tap: Callable[[], int]


@pytest.fixture(params=["fake", "qemu"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    root = Path(tempfile.mkdtemp(prefix="labd-dv-"))
    machine = machine_spec(root)
    machine = replace(machine, disks=(*machine.disks, DRIVE))
    path = machine.folder / "d0.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    disk = Disk(id="d0", ref=at(path), format=ImageFormat.QCOW2, serial="data", slot=1)
    hv: NodePort
    if request.param == "fake":
        host = FakeHost()
        host.clings = {"d0", "n0"}
        hv = FakeHypervisor(host)
        rig = Rig(hv, FakeDevices(host), machine, disk, lambda: os.eventfd(0))
    else:
        real = hv = QemuHypervisor(
            root.name[-8:].replace("_", "-").lower(), root, storage=FileDisks()
        )
        devices = QemuDevices(real.machine, FileDisks(), unplug_timeout=0.3)
        rig = Rig(hv, devices, machine, disk, lambda: _open_tap(f"tct{os.getpid()}"))
    try:
        await hv.launch(machine, {})
        await hv.resume("k1")
        await asyncio.wait_for(hv.wait_console("k1", UP), 20)
        yield rig
    finally:
        await hv.kill("k1")
        await hv.close()
        shutil.rmtree(root)


def given(tap: int) -> Callable[[], Awaitable[int]]:
    """Return what opens this tap."""

    async def open_tap() -> int:
        return tap

    return open_tap


async def never() -> int:
    raise AssertionError("no tap is needed")


async def test_what_is_there_stays_and_what_is_not_stays_away(rig: Rig) -> None:
    more = replace(rig.machine, disks=(*rig.machine.disks, rig.disk), nics=(NIC,))
    await rig.devices.unplug_disk(more, rig.disk)
    await rig.devices.unplug_nic(more, NIC)
    for _ in range(2):
        await rig.devices.plug_disk(more, rig.disk)
    await rig.devices.plug_nic(more, NIC, given(rig.tap()))
    await rig.devices.plug_nic(more, NIC, never)


async def test_a_guest_that_clings_is_told(rig: Rig) -> None:
    more = replace(rig.machine, disks=(*rig.machine.disks, rig.disk), nics=(NIC,))
    await rig.devices.plug_disk(more, rig.disk)
    await rig.devices.plug_nic(more, NIC, given(rig.tap()))
    for _ in range(2):
        with pytest.raises(GuestFailed, match="did not let go of"):
            await rig.devices.unplug_disk(rig.machine, rig.disk)
        with pytest.raises(GuestFailed, match="did not let go of"):
            await rig.devices.unplug_nic(rig.machine, NIC)


async def test_what_cannot_be_is_refused(rig: Rig) -> None:
    ide = replace(rig.disk, bus=DiskBus.IDE)
    with pytest.raises(QmpRefused):
        await rig.devices.plug_disk(replace(rig.machine, disks=(*rig.machine.disks, ide)), ide)
    lost = replace(rig.disk, ref=at(Path("/nowhere/at/all")))
    with pytest.raises(LaunchFailed, match="No such file or directory"):
        await rig.devices.plug_disk(replace(rig.machine, disks=(*rig.machine.disks, lost)), lost)
    with pytest.raises(LaunchFailed, match="No such file or directory"):
        await rig.devices.change_medium(rig.machine, replace(DRIVE, ref=lost.ref, empty=False))


async def test_a_cd_goes_in_and_out(rig: Rig) -> None:
    path = rig.machine.folder / "cd.iso"
    path.write_bytes(bytes(1 << 20))
    cd = replace(DRIVE, ref=at(path), empty=False)
    for drive in (DRIVE, cd, cd, DRIVE, DRIVE, cd):
        await rig.devices.change_medium(rig.machine, drive)


async def test_a_machine_that_has_ended_takes_nothing(rig: Rig) -> None:
    await rig.hv.kill("k1")
    more = replace(rig.machine, disks=(*rig.machine.disks, rig.disk), nics=(NIC,))
    with pytest.raises(NodeGone):
        await rig.devices.plug_disk(more, rig.disk)
    with pytest.raises(NodeGone):
        await rig.devices.plug_nic(more, NIC, never)
    with pytest.raises(NodeGone):
        await rig.devices.change_medium(rig.machine, DRIVE)
