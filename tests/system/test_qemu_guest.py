"""A real Linux guest: its agent, its power button, its panic, and what it is told at boot."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labd.drivers.node.qemu import QemuGuestFiles, QemuHypervisor
from labd.model.errors import GuestFailed
from labd.model.images import ImageFormat
from labd.model.machine import Disk, GuestEvent, GuestEventKind, MachineSpec, RunState
from labd.model.process import ProcessId
from labd.model.specs import Machine
from tests.contract.guest_files_contract import check_guest_files
from tests.disks import FileDisks, at
from tests.guests import machine_spec
from tests.system.harness import CACHE

_K = GuestEventKind
READY = "^labd: ready "
DISK_SIZE = 64 << 20


@dataclass
class Rig:
    root: Path
    parts: dict[str, str]
    hv: QemuHypervisor
    root_id: str
    events: list[GuestEvent] = field(default_factory=list)

    def machine(self, kind: Machine = Machine.Q35) -> MachineSpec:
        folder = self.root / "nodes" / "k1"
        folder.mkdir(parents=True, exist_ok=True)
        disk = folder / "data.qcow2"
        if not disk.exists():
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", disk, str(DISK_SIZE)], check=True
            )
        return machine_spec(
            self.root,
            machine=kind,
            memory=128 << 20,
            kernel=Path(self.parts["kernel"]),
            initrd=Path(self.parts["initrd"]),
            cmdline=self.parts["cmdline"],
            config=b"hostname server\n",
            disks=(Disk(id="disk0", ref=at(disk), format=ImageFormat.QCOW2, serial="data"),),
        )

    async def up(self, machine: MachineSpec) -> ProcessId:
        process = await self.hv.launch(machine, {})
        await self.hv.resume("k1")
        line = await asyncio.wait_for(self.hv.wait_console("k1", READY), 90)
        assert line == "labd: ready server"
        async with asyncio.timeout(30):
            while not await self.hv.agent_ping("k1"):
                await asyncio.sleep(0.05)
        return process

    async def event(self, kind: GuestEventKind, seconds: float = 60) -> GuestEvent:
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if event.kind is kind:
                        return event
                await asyncio.sleep(0.01)


@pytest.fixture
async def rig(built_tiny: None) -> AsyncIterator[Rig]:
    said = subprocess.run(
        [sys.executable, "-m", "labd.images.tiny", "--cache", str(CACHE)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    parts = dict(line.split(None, 1) for line in said.splitlines())
    root = Path(tempfile.mkdtemp(prefix="labd-g-"))
    root_id = root.name[-8:].replace("_", "-").lower()
    rig = Rig(root, parts, QemuHypervisor(root_id, root, storage=FileDisks()), root_id)
    rig.hv.listen(rig.events.append)
    try:
        yield rig
    finally:
        for found in await rig.hv.scan():
            await rig.hv.kill(found.key)
            await rig.hv.kill_process(found.process)
        await rig.hv.close()
        shutil.rmtree(root)


@pytest.mark.parametrize("kind", list(Machine))
async def test_the_agent_on_every_machine_type(rig: Rig, kind: Machine) -> None:
    await rig.up(rig.machine(kind))
    await rig.event(_K.AGENT_OPENED)
    done = await rig.hv.agent_exec("k1", ["/bin/sh", "-c", "hostname; echo oops >&2; exit 3"], 20)
    assert (done.status, done.stdout, done.stderr) == (3, b"server\n", b"oops\n")
    with pytest.raises(GuestFailed, match="refused guest-exec"):
        await rig.hv.agent_exec("k1", ["/no/such/program"], 10)
    said = await rig.hv.agent_exec("k1", ["cat"], 10, b"in\x00put" * 40_000)
    assert said.stdout == b"in\x00put" * 40_000
    long = await rig.hv.agent_exec("k1", ["head", "-c", "1500000", "/dev/zero"], 30)
    assert (len(long.stdout), long.truncated) == (1 << 20, True)
    await check_guest_files(QemuGuestFiles(rig.hv.machine), "k1")
    size = await rig.hv.agent_exec("k1", ["cat", "/sys/block/vda/size"], 10)
    assert int(size.stdout) * 512 == DISK_SIZE
    write = "dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync"
    assert (await rig.hv.agent_exec("k1", ["/bin/sh", "-c", write], 30)).status == 0
    await rig.hv.power_down("k1")  # by the agent
    assert (await rig.event(_K.POWERED_OFF)).data["reason"] == "guest-shutdown"
    assert await rig.hv.query("k1") is RunState.SHUTDOWN


@pytest.mark.parametrize("kind", [Machine.PC, Machine.Q35])
async def test_the_power_button(rig: Rig, kind: Machine) -> None:
    await rig.up(rig.machine(kind))
    with pytest.raises(GuestFailed, match="is not there"):  # its end is not told by itself
        await rig.hv.agent_exec("k1", ["killall", "qemu-ga"], 30)
    async with asyncio.timeout(10):
        while rig.hv._vms["k1"].agent.open:
            await asyncio.sleep(0.05)
    assert not await rig.hv.agent_ping("k1")
    await rig.hv.power_down("k1")
    await rig.event(_K.POWERED_OFF)


@pytest.mark.parametrize("kind", [Machine.PC, Machine.Q35])
async def test_a_kernel_panic_is_told(rig: Rig, kind: Machine) -> None:
    await rig.up(rig.machine(kind))
    async with rig.hv.console("k1") as line:
        await line.write(b"\necho c > /proc/sysrq-trigger\n")
        await rig.event(_K.PANICKED)
    assert await rig.hv.query("k1") is RunState.PANICKED


async def test_a_later_daemon_has_the_agent_and_the_console(rig: Rig) -> None:
    machine = rig.machine()
    process = await rig.up(machine)
    await rig.hv.close()
    rig.hv = QemuHypervisor(rig.root_id, rig.root, storage=FileDisks())
    rig.hv.listen(rig.events.append)
    assert await rig.hv.adopt(machine, process) is RunState.RUNNING
    assert await rig.hv.agent_ping("k1")
    assert await rig.hv.wait_console("k1", READY) == "labd: ready server"
    async with rig.hv.console("k1") as line:
        await line.write(b"\necho $((6 * 7))\n")
        assert await asyncio.wait_for(rig.hv.wait_console("k1", "^42$"), 20) == "42"
