"""NICs, disks and CDs that come and go in a running Linux guest, on each machine type."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from labd.drivers.network.linux import links, netns
from labd.drivers.node.qemu import QemuDevices, QemuHypervisor
from labd.model.disks import NO_DISK
from labd.model.errors import GuestFailed, LaunchFailed, QmpRefused
from labd.model.images import ImageFormat
from labd.model.machine import Disk, Nic
from labd.model.network import PortPlan
from labd.model.specs import BootDevice, DiskBus, Machine, NicModel
from tests.disks import FileDisks, at, path_of
from tests.guests import UP, boot_cd, machine_spec
from tests.system import test_qemu_guest
from tests.system.test_qemu_guest import Rig

rig = test_qemu_guest.rig  # a fixture
MIB = 1 << 20
NS = f"labd-plug-{os.getpid()}"
MACHINES = [Machine.PC, Machine.Q35]


@pytest.fixture
async def namespace() -> AsyncIterator[str]:
    await netns.create(NS)
    await netns.inside(NS, lambda: links.prepare_namespace("labd:plug"))
    yield NS
    await netns.remove(NS)


async def tap(name: str) -> int:
    def make() -> int:
        subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=False)
        plan = PortPlan(key="k1", nic=name, tap=f"t{name}", bridge="br0")
        return links.open_taps([plan])["k1", name]

    return await netns.inside(NS, make)


async def taps() -> set[str]:
    def look() -> set[str]:
        said = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
        words = [line.split(": ")[1] for line in said.stdout.splitlines()]
        return {word for word in words if word.startswith("t")}

    return await netns.inside(NS, look)


async def agent_answers(rig: Rig) -> None:
    """Wait for the agent, which a busy host may start a little after the guest said `ready`."""
    async with asyncio.timeout(60):
        while not await rig.hv.agent_ping("k1"):
            await asyncio.sleep(0.1)


async def sh(rig: Rig, command: str) -> str:
    done = await rig.hv.agent_exec("k1", ["/bin/sh", "-c", command], 60)
    return (done.stdout + done.stderr).decode().strip()


async def seen(rig: Rig, command: str, wanted: str) -> None:
    said = ""
    for _ in range(100):
        said = await sh(rig, command)
        if said == wanted:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{command}: {said!r}, not {wanted!r}")


def blank(rig: Rig, name: str, size: int, **changes: object) -> Disk:
    path = rig.root / "nodes" / "k1" / f"{name}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    disk = Disk(id="d0", ref=at(path), format=ImageFormat.QCOW2, serial=name, slot=1)
    return replace(disk, **changes)  # type: ignore[arg-type]


def iso(rig: Rig, text: str) -> Path:
    path = rig.root / f"{text[4:]}.iso"
    path.write_bytes(boot_cd(text))
    return path


async def fdsets(rig: Rig) -> int:
    found = await rig.hv.machine("k1").execute("query-fdsets")
    assert isinstance(found, list)
    return len(found)


def devices(hv: QemuHypervisor) -> QemuDevices:
    return QemuDevices(hv.machine, FileDisks())


@pytest.mark.parametrize("kind", MACHINES)
async def test_disks_and_nics_come_and_go(rig: Rig, namespace: str, kind: Machine) -> None:
    machine = rig.machine(kind)
    root = replace(machine.disks[0], slot=0)
    machine = replace(machine, disks=(root,), nics=(Nic(id="n0", mac="02:00:00:00:00:10", slot=0),))
    process = await rig.hv.launch(machine, {"n0": await tap("n0")})
    await rig.hv.resume("k1")
    await asyncio.wait_for(rig.hv.wait_console("k1", "^labd: ready "), 90)
    await agent_answers(rig)
    hot = devices(rig.hv)
    before = await fdsets(rig)

    disk = blank(rig, "extra", 48 * MIB)
    more = replace(machine, disks=(root, disk))
    await hot.plug_disk(more, disk)
    await hot.plug_disk(more, disk)  # again changes nothing
    await seen(rig, "cat /sys/block/vdb/size /sys/block/vdb/serial", f"{48 * MIB // 512}\nextra")
    await sh(rig, "dd if=/dev/zero of=/dev/vdb bs=1M count=4 conv=fsync")
    nic = Nic(id="n1", mac="02:00:00:00:00:11", slot=1)
    more = replace(more, nics=(*machine.nics, nic))
    await hot.plug_nic(more, nic, partial(tap, "n1"))
    await hot.plug_nic(more, nic, partial(tap, "n1"))  # again changes nothing
    find = "grep -l 02:00:00:00:00:11 /sys/class/net/*/address | wc -l"
    await seen(rig, find, "1")
    assert await taps() == {"tn0", "tn1"}

    # A later daemon detaches what an earlier one attached, and what was there from the start.
    await rig.hv.close()
    rig.hv = QemuHypervisor(rig.root_id, rig.root, storage=FileDisks())
    rig.hv.listen(rig.events.append)
    await rig.hv.adopt(more, process)
    await agent_answers(rig)
    hot = devices(rig.hv)
    await hot.unplug_disk(machine, disk)
    await hot.unplug_disk(machine, disk)
    await seen(rig, "ls /sys/block | grep -c vd", "1")
    await hot.unplug_nic(machine, nic)
    await hot.unplug_nic(machine, nic)
    await seen(rig, find, "0")
    await hot.unplug_nic(replace(machine, nics=()), machine.nics[0])
    assert await taps() == set()
    await hot.unplug_disk(replace(machine, nics=(), disks=()), root)
    await seen(rig, "ls /sys/block | grep -c vd", "0")
    assert await fdsets(rig) == before - 1, "no descriptor is left"
    # The slot is free again.
    await hot.plug_disk(machine, root)
    await seen(rig, "ls /sys/block | grep -c vd", "1")


@pytest.mark.parametrize("kind", MACHINES)
async def test_a_cd_is_changed(rig: Rig, kind: Machine) -> None:
    drive = Disk(id="cd0", ref=NO_DISK, format=ImageFormat.RAW, cdrom=True, empty=True)
    machine = machine_spec(rig.root, machine=kind)
    machine = replace(
        machine,
        disks=(*machine.disks, drive),
        boot=(BootDevice.CDROM, BootDevice.DISK),
    )
    await rig.hv.launch(machine, {})
    await rig.hv.resume("k1")
    await asyncio.wait_for(rig.hv.wait_console("k1", UP), 20)
    hot, before = devices(rig.hv), await fdsets(rig)
    for text in ("cd: first", "cd: other"):
        cd = replace(drive, ref=at(iso(rig, text)), empty=False)
        await hot.change_medium(machine, cd)
        await hot.change_medium(machine, cd)
        await rig.hv.reset("k1")
        await asyncio.wait_for(rig.hv.wait_console("k1", text), 20)
    assert await fdsets(rig) == before + 1
    await hot.change_medium(machine, drive)
    await hot.change_medium(machine, drive)
    await rig.hv.reset("k1")
    await asyncio.wait_for(rig.hv.wait_console("k1", UP), 20)
    assert await fdsets(rig) == before


@pytest.mark.parametrize("model", list(NicModel))
@pytest.mark.parametrize("kind", MACHINES)
async def test_every_card_can_be_plugged(
    rig: Rig,
    namespace: str,
    kind: Machine,
    model: NicModel,
) -> None:
    machine = machine_spec(rig.root, machine=kind)
    await rig.hv.launch(machine, {})
    await rig.hv.resume("k1")
    await asyncio.wait_for(rig.hv.wait_console("k1", UP), 20)
    nic = Nic(id="n0", mac="02:00:00:00:00:10", model=model, slot=0)
    more = replace(machine, nics=(nic,))
    await devices(rig.hv).plug_nic(more, nic, partial(tap, "n0"))
    assert await taps() == {"tn0"}
    # This guest never lets go of anything.
    hot = QemuDevices(rig.hv.machine, FileDisks(), unplug_timeout=0.5)
    with pytest.raises(GuestFailed, match="did not let go of NIC 02:00:00:00:00:10 within 0.5 s"):
        await hot.unplug_nic(machine, nic)


@pytest.mark.parametrize("kind", MACHINES)
async def test_what_cannot_be_plugged_leaves_nothing(rig: Rig, kind: Machine) -> None:
    machine = machine_spec(rig.root, machine=kind)
    await rig.hv.launch(machine, {})
    await rig.hv.resume("k1")
    await asyncio.wait_for(rig.hv.wait_console("k1", UP), 20)
    hot, before = devices(rig.hv), await fdsets(rig)
    lost = replace(blank(rig, "x", MIB), ref=at(rig.root / "nowhere"))
    with pytest.raises(LaunchFailed, match="cannot open .*nowhere: No such file"):
        await hot.plug_disk(replace(machine, disks=(*machine.disks, lost)), lost)
    link = rig.root / "link"
    link.symlink_to("/etc/shadow")
    with pytest.raises(LaunchFailed, match="cannot open"):
        await hot.plug_disk(machine, replace(lost, ref=at(link)))
    for bus in (DiskBus.IDE, DiskBus.SCSI):
        disk = blank(rig, f"x-{bus}", MIB, bus=bus)
        with pytest.raises(QmpRefused):
            await hot.plug_disk(replace(machine, disks=(*machine.disks, disk)), disk)
    bad = blank(rig, "bad", MIB)
    path_of(bad.ref).write_bytes(b"no qcow2" * 100)
    with pytest.raises(QmpRefused):
        await hot.plug_disk(replace(machine, disks=(*machine.disks, bad)), bad)
    assert await fdsets(rig) == before
