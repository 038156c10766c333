"""Real QEMU: what it may do, what it runs on, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from labd.drivers.node.qemu import QemuHypervisor, VmTimes, console, consolelog, process
from labd.model.errors import InputError, LaunchFailed, NodeUnresponsive, QmpRefused
from labd.model.images import ImageFormat
from labd.model.machine import Disk, GuestEvent, GuestEventKind, MachineSpec, Nic, RunState
from labd.model.process import ProcessId
from labd.model.specs import BootDevice, DiskBus, Display, Firmware, Machine, NicModel
from tests.disks import FileDisks, at, path_of
from tests.guests import IMAGE, UP, machine_spec

_K = GuestEventKind
BIOS = Path("/usr/share/seabios/bios-256k.bin")


@dataclass
class Host:
    root: Path
    events: list[GuestEvent] = field(default_factory=list)
    hv: QemuHypervisor = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Be another daemon."""
        root_id = self.root.name[-8:].replace("_", "-").lower()
        times = VmTimes(deadline=2.0, heartbeat=0.3, greeting=1.0)
        self.hv = QemuHypervisor(root_id, self.root, times, storage=FileDisks())
        self.hv.listen(self.events.append)

    def machine(self, key: str = "k1", **changes: Any) -> MachineSpec:
        return machine_spec(self.root, key, **changes)

    async def up(self, machine: MachineSpec, seconds: float = 20) -> ProcessId:
        started = await self.hv.launch(machine, {})
        await self.hv.resume(machine.key)
        await asyncio.wait_for(self.hv.wait_console(machine.key, UP), seconds)
        return started

    async def event(self, kind: GuestEventKind, seconds: float = 10) -> GuestEvent:
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if event.kind is kind:
                        self.events.remove(event)
                        return event
                await asyncio.sleep(0.002)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    root = Path(tempfile.mkdtemp(prefix="labd-q-"))
    before = descriptors()
    host = Host(root)
    try:
        yield host
    finally:
        for found in await host.hv.scan():
            await host.hv.kill(found.key)
            await host.hv.kill_process(found.process)
        await host.hv.close()
        shutil.rmtree(root)
    assert not await host.hv.scan()
    await asyncio.sleep(0.05)
    assert descriptors() == before


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_qemu_has_no_power(host: Host) -> None:
    machine = host.machine()
    started = await host.up(machine)
    facts = status(started.pid)
    assert facts["Uid"].split() == [str(machine.uid)] * 4
    assert facts["Gid"].split() == [str(machine.uid)] * 4
    assert facts["Groups"] == ""
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(facts[f"Cap{kind}"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    netns = os.readlink(f"/proc/{started.pid}/ns/net")
    assert netns != os.readlink("/proc/self/ns/net")
    devices = Path(f"/proc/{started.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
    for name in ("qmp.sock", "hmp.sock", "serial.sock", "agent.sock"):
        facts_of = (machine.run / name).stat()
        assert (facts_of.st_uid, facts_of.st_mode & 0o777) == (0, 0o600)
    assert machine.run.stat().st_mode & 0o777 == 0o700


async def test_qemu_opens_no_file_by_its_path(host: Host) -> None:
    """Asked by its own monitor, which is what one who broke out of it could do, too."""
    await host.up(host.machine())
    vm = host.hv.machine("k1")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)  # so that nothing but Landlock stands in the way
        present = folder / "present"
        present.write_bytes(bytes(512))
        present.chmod(0o666)
        for target in (folder / "new", present):
            save = {"val": 0, "size": 64, "filename": str(target)}
            with pytest.raises(QmpRefused, match="Could not open"):
                await vm.execute("pmemsave", save)
        assert sorted(folder.iterdir()) == [present]
        assert present.read_bytes() == bytes(512)
        for path in (present, Path("/etc/passwd"), Path("/proc/1/cmdline")):
            node = {"driver": "file", "node-name": "x", "filename": str(path), "read-only": True}
            with pytest.raises(QmpRefused, match="Permission denied"):
                await vm.execute("blockdev-add", node)
        # That asks for what QEMU may do at all: what its package has can be read.
        node = {"driver": "file", "node-name": "x", "filename": str(BIOS), "read-only": True}
        await vm.execute("blockdev-add", node)


async def test_qemu_inherits_nothing_else(host: Host) -> None:
    secret = os.open(host.root / "secret", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(secret, True)
    try:
        started = await host.up(host.machine())
        names = {os.readlink(entry) for entry in Path(f"/proc/{started.pid}/fd").iterdir()}
        files = {name for name in names if name.startswith("/") and not name.startswith("/dev/")}
        machine = host.machine()
        serial = f"/memfd:labd-{machine.key}-serial (deleted)"
        assert files == {str(path_of(machine.disks[0].ref)), str(machine.run / "qemu.log"), serial}
    finally:
        os.close(secret)


@pytest.mark.parametrize("kind", list(Machine))
async def test_every_machine_type_starts_from_a_disk(host: Host, kind: Machine) -> None:
    await host.up(host.machine(machine=kind))
    assert await host.hv.query("k1") is RunState.RUNNING


@pytest.mark.parametrize("bus", list(DiskBus))
@pytest.mark.parametrize("kind", [Machine.PC, Machine.Q35])
async def test_every_bus_starts(host: Host, kind: Machine, bus: DiskBus) -> None:
    machine = host.machine(machine=kind)
    await host.up(replace(machine, disks=(replace(machine.disks[0], bus=bus),)))


def overlay(folder: Path, base: Path, base_format: str, name: str = "root.qcow2") -> Path:
    path = folder / name
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, path],
        check=True,
    )
    path.chmod(0o600)
    return path


async def test_a_chain_of_layers_shared_by_two(host: Host) -> None:
    base = host.root / "base.img"
    base.write_bytes(IMAGE)
    base.chmod(0o400)
    middle = overlay(host.root, base, "raw", "middle.qcow2")
    backing = ((at(middle), ImageFormat.QCOW2), (at(base), ImageFormat.RAW))
    for key in ("k1", "k2"):
        machine = host.machine(key)
        top = overlay(machine.folder, middle, "qcow2")
        disk = Disk(id="disk0", ref=at(top), format=ImageFormat.QCOW2, backing=backing)
        await host.up(replace(machine, disks=(disk,)))


async def test_a_disk_in_use_is_refused(host: Host) -> None:
    first = host.machine("k1")
    await host.up(first)
    with pytest.raises(LaunchFailed, match='Failed to get "write" lock'):
        await host.hv.launch(replace(host.machine("k2"), disks=first.disks), {})
    assert len(await host.hv.scan()) == 1


async def test_a_qcow2_does_not_name_its_own_backing_file(host: Host) -> None:
    machine = host.machine()
    top = overlay(machine.folder, path_of(machine.disks[0].ref), "raw")
    disk = Disk(id="disk0", ref=at(top), format=ImageFormat.QCOW2)  # its header says otherwise
    await host.hv.launch(replace(machine, disks=(disk,)), {})
    await host.hv.resume("k1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(host.hv.wait_console("k1", UP), 1)


@pytest.mark.parametrize("trap", ["symlink", "fifo", "hardlink", "folder"])
async def test_a_trap_in_the_folder_is_not_opened(host: Host, trap: str) -> None:
    machine = host.machine()
    path = path_of(machine.disks[0].ref)
    victim = host.root / "victim"
    victim.write_bytes(IMAGE)
    path.unlink()
    match trap:
        case "symlink":
            path.symlink_to(victim)
        case "fifo":
            os.mkfifo(path)
        case "hardlink":
            path.hardlink_to(victim)
        case "folder":
            path.mkdir()
    with pytest.raises(LaunchFailed, match=re.escape(str(path))):
        await asyncio.wait_for(host.hv.launch(machine, {}), 5)
    assert not machine.run.exists()


async def test_qemus_own_words_are_in_the_error(host: Host) -> None:
    disk = replace(host.machine().disks[0], format=ImageFormat.QCOW2)
    with pytest.raises(LaunchFailed) as caught:
        await host.hv.launch(replace(host.machine(), disks=(disk,)), {})
    assert "QEMU for test/k1 did not start: " in caught.value.message
    assert "Image is not in qcow2 format" in str(caught.value.details["stderr"])
    assert caught.value.details["status"] == 1
    assert not host.events


async def test_a_cancelled_launch_leaves_nothing(host: Host) -> None:
    machine = host.machine()
    for delay in (0.0, 0.003, 0.01, 0.02, 0.03, 0.04):
        launch = asyncio.create_task(host.hv.launch(machine, {}))
        await asyncio.sleep(delay)
        launch.cancel()
        await asyncio.wait([launch])
        if not launch.cancelled():
            await host.hv.kill("k1")
            await host.hv.forget(machine)
        assert not await host.hv.scan()
        assert not machine.run.exists()


async def test_a_root_too_deep_for_sockets_is_told(host: Host) -> None:
    deep = host.root / ("d" * 100)
    with pytest.raises(LaunchFailed, match="longer than 107 bytes: choose a shorter --root"):
        await host.hv.launch(replace(host.machine(), run=deep), {})
    assert not deep.exists()


async def test_what_a_machine_type_cannot_have_is_told(host: Host) -> None:
    machine = host.machine(machine=Machine.MICROVM)
    ide = replace(machine.disks[0], bus=DiskBus.IDE)
    with pytest.raises(InputError, match="machine microvm has no PCI"):
        await host.hv.launch(replace(machine, disks=(ide,)), {})
    assert not machine.run.exists()


async def test_sigkill_is_told_by_name(host: Host) -> None:
    started = await host.up(host.machine())
    os.kill(started.pid, signal.SIGKILL)
    event = await host.event(_K.EXITED)
    assert event.data["signal"] == "SIGKILL"
    assert event.data["status"] == -9
    assert not [other for other in host.events if other.kind is _K.POWERED_OFF]


async def test_sigterm_is_an_end_not_a_power_off(host: Host) -> None:
    started = await host.up(host.machine())
    os.kill(started.pid, signal.SIGTERM)
    event = await host.event(_K.EXITED)
    assert event.data["status"] == 0
    assert "terminating on signal 15" in str(event.data["stderr"])
    assert not [other for other in host.events if other.kind is _K.POWERED_OFF]


async def test_the_heartbeat_finds_a_hung_qemu(host: Host) -> None:
    started = await host.up(host.machine())
    os.kill(started.pid, signal.SIGSTOP)
    await host.event(_K.UNRESPONSIVE)
    begin = time.monotonic()
    with pytest.raises(NodeUnresponsive):
        await host.hv.pause("k1")
    assert time.monotonic() - begin < 1  # nobody queues behind a hung QEMU
    os.kill(started.pid, signal.SIGCONT)
    await host.event(_K.RESPONSIVE)
    assert await host.hv.query("k1") is RunState.RUNNING


async def test_a_hung_qemu_that_many_daemons_have_asked_is_adopted(host: Host) -> None:
    machine = host.machine()
    started = await host.up(machine)
    await host.hv.close()
    os.kill(started.pid, signal.SIGSTOP)
    asked = []
    with contextlib.suppress(BlockingIOError):
        while True:  # each daemon that was killed leaves one in the queue of the socket
            asked.append(process.connect(machine.run / process.QMP_SOCKET))
    host.renew()
    with pytest.raises(NodeUnresponsive):
        await host.hv.adopt(machine, started)
    for line in asked:
        line.close()
    os.kill(started.pid, signal.SIGCONT)
    await host.event(_K.RESPONSIVE)
    assert await host.hv.query("k1") is RunState.RUNNING


async def test_one_whose_monitor_is_not_to_be_found_is_kept_and_can_be_ended(host: Host) -> None:
    machine = host.machine()
    process_id = await host.up(machine)
    monitor = machine.run / process.QMP_SOCKET
    monitor.rename(monitor.with_name("away"))
    await host.hv.close()
    host.renew()
    with pytest.raises(NodeUnresponsive):
        await host.hv.adopt(machine, process_id)
    monitor.with_name("away").rename(monitor)
    await host.event(_K.RESPONSIVE)
    assert await host.hv.query("k1") is RunState.RUNNING
    monitor.unlink()
    await host.hv.close()
    host.renew()
    with pytest.raises(NodeUnresponsive):
        await host.hv.adopt(machine, process_id)
    await host.hv.kill("k1")
    assert not await host.hv.scan()


async def test_a_cut_monitor_is_connected_again(host: Host) -> None:
    await host.up(host.machine())
    vm = host.hv._vms["k1"]
    client = vm.monitor._client
    assert client is not None
    assert client._writer is not None
    client._writer.transport.abort()
    async with asyncio.timeout(5):
        while vm.monitor._client is client or not vm.monitor.connected:
            await asyncio.sleep(0.005)
    assert await host.hv.query("k1") is RunState.RUNNING
    await host.hv.pause("k1")
    await host.event(_K.PAUSED)


async def test_a_person_has_a_monitor_too(host: Host) -> None:
    await host.up(host.machine())
    reader, writer = await asyncio.open_unix_connection(str(host.machine().run / "hmp.sock"))
    assert "QMP" in json.loads(await asyncio.wait_for(reader.readline(), 5))
    writer.write(b'{"execute":"qmp_capabilities"}{"execute":"stop"}\n')
    await host.event(_K.PAUSED)
    assert await host.hv.query("k1") is RunState.PAUSED
    writer.close()
    await writer.wait_closed()


async def test_a_flood_of_output_fills_no_disk(host: Host) -> None:
    """Nor memory, with viewers that do not read; nor does it take a CPU of labd's."""
    machine = host.machine()
    await host.up(machine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(host.hv.console("k1")) for _ in range(8)]
        viewer = viewers[0]
        await viewer.write(b"f")
        path = host.hv.console_log(machine)
        async with asyncio.timeout(60):
            while not path.with_name("console.log.1").exists():
                await asyncio.sleep(0.05)
        begin, used = time.monotonic(), time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - used < 0.5 * (time.monotonic() - begin)
        sizes = [entry.stat().st_size for entry in machine.run.glob("console.log*")]
        assert sum(sizes) <= 2 * consolelog.LOG_LIMIT
        assert len(await viewer.read()) <= console.VIEWER_LIMIT + (64 << 10)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown << 10 < 8 * console.VIEWER_LIMIT + (16 << 20)
    assert await host.hv.query("k1") is RunState.RUNNING


async def test_qemus_log_is_bounded(host: Host) -> None:
    machine = host.machine()
    await host.up(machine)
    log = machine.run / "qemu.log"
    with log.open("ab") as file:
        file.write(b"w" * (process.LOG_LIMIT + 10))
    async with asyncio.timeout(5):
        while log.stat().st_size > process.LOG_LIMIT:
            await asyncio.sleep(0.05)
    assert (machine.run / "qemu.log.1").stat().st_size == process.LOG_LIMIT


async def test_events_come_at_once(host: Host) -> None:
    await host.up(host.machine())
    late = []
    host.hv.listen(lambda event: late.append(time.time() - event.time))
    for _ in range(50):
        await host.hv.pause("k1")
        await host.hv.resume("k1")
    late.sort()
    assert len(late) == 100
    assert late[50] < 0.2  # under a millisecond on a quiet host; a poll would take longer


async def test_uefi_keeps_variables_of_its_own(host: Host) -> None:
    machine = host.machine(firmware=Firmware.UEFI, memory=128 << 20, disks=())
    await host.hv.launch(machine, {})
    await host.hv.resume("k1")
    await asyncio.wait_for(host.hv.wait_console("k1", "BdsDxe|UEFI|Shell"), 90)
    copy = machine.folder / "uefi-vars.fd"
    assert copy.stat().st_mode & 0o777 == 0o600
    changed = copy.read_bytes()
    assert changed != Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()
    await host.hv.kill("k1")
    await host.hv.launch(machine, {})
    assert copy.read_bytes() == changed


async def test_vnc_viewers_are_handed_over(host: Host) -> None:
    machine = host.machine(display=Display.VNC)
    await host.up(machine)
    path = machine.run / "vnc.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    first, first_writer = await asyncio.open_unix_connection(str(path))
    assert (await asyncio.wait_for(first.readexactly(12), 5)).startswith(b"RFB 003.")
    await host.hv.close()
    host.renew()
    [found] = await host.hv.scan()
    assert await host.hv.adopt(machine, found.process) is RunState.RUNNING
    second, second_writer = await asyncio.open_unix_connection(str(path))
    assert (await asyncio.wait_for(second.readexactly(12), 5)).startswith(b"RFB 003.")
    first_writer.write(b"RFB 003.008\n")  # who watched before the daemon went still watches
    assert await asyncio.wait_for(first.readexactly(2), 5) == b"\x01\x01"
    for writer in (first_writer, second_writer):
        writer.close()
        await writer.wait_closed()
    assert await host.hv.query("k1") is RunState.RUNNING
    await host.hv.kill("k1")
    await host.hv.forget(machine)
    assert not path.exists()


async def test_a_cdrom_comes_first_when_asked(host: Host) -> None:
    machine = host.machine(boot=(BootDevice.CDROM, BootDevice.DISK))
    iso = host.root / "empty.iso"
    iso.write_bytes(bytes(1 << 20))
    iso.chmod(0o444)
    cdrom = Disk(id="cd0", ref=at(iso), format=ImageFormat.ISO, cdrom=True)
    await host.up(replace(machine, disks=(*machine.disks, cdrom)))


def open_tap(name: str) -> int:
    """Make a tap inside a namespace of its own, which lives as long as the thread and the tap."""
    found: list[int] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET, of this thread only
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH14x", name.encode(), flags))
        found.append(fd)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("model", list(NicModel))
async def test_taps_arrive_at_qemu(host: Host, model: NicModel) -> None:
    nics = tuple(Nic(id=f"n{i}", mac=f"02:00:00:00:00:0{i}", model=model) for i in range(2))
    machine = host.machine(nics=nics)
    started = await host.hv.launch(machine, {nic.id: open_tap(f"t{nic.id}") for nic in nics})
    taps = set()
    for entry in Path(f"/proc/{started.pid}/fdinfo").iterdir():
        found = re.search(r"^iff:\s*(\S+)$", entry.read_text(), re.MULTILINE)
        if found:
            taps.add(found[1])
    assert taps == {"tn0", "tn1"}
    await host.hv.resume("k1")
    await asyncio.wait_for(host.hv.wait_console("k1", UP), 20)


async def test_network_boot_has_its_roms(host: Host) -> None:
    nic = Nic(id="n0", mac="02:00:00:00:00:01")
    machine = host.machine(boot=(BootDevice.NETWORK, BootDevice.DISK), nics=(nic,))
    await host.hv.launch(machine, {"n0": open_tap("tboot")})
    assert await host.hv.query("k1") is RunState.PRELAUNCH


async def test_a_dozen_start_side_by_side(host: Host) -> None:
    machines = [host.machine(f"m{number}") for number in range(12)]
    await asyncio.gather(*(host.up(machine, 60) for machine in machines))
    assert len(await host.hv.scan()) == 12
    await asyncio.gather(*(host.hv.kill(machine.key) for machine in machines))
    assert not await host.hv.scan()


async def test_sockets_refuse_others(host: Host) -> None:
    machine = host.machine()
    await host.up(machine)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    outcome: list[str] = []

    def work() -> None:
        # The raw system call changes the credentials of this thread alone.
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(117, 65534, 65534, 65534) == 0  # setresuid on x86-64
        try:
            sock.connect(str(machine.run / "qmp.sock"))
            outcome.append("connected")
        except PermissionError:
            outcome.append("refused")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    sock.close()
    assert outcome == ["refused"]
