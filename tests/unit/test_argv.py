"""The command line of QEMU, whole, as golden text, and what it refuses."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.drivers.node.qemu import argv, devices
from labd.drivers.node.qemu.argv import Descriptors
from labd.model.disks import BlockAttachment
from labd.model.errors import InputError
from labd.model.images import ImageFormat
from labd.model.machine import CpuSetting, Disk, MachineSpec, Nic
from labd.model.specs import BootDevice, DiskBus, Display, Firmware, Machine, NicModel
from tests.disks import at

UUID = "6d0a3f9e-0000-4000-8000-000000000001"
OVERLAY = Disk(
    id="disk0",
    ref=at(Path("/s/nodes/k1/root.qcow2")),
    format=ImageFormat.QCOW2,
    backing=((at(Path("/s/images/aa/disk")), ImageFormat.QCOW2),),
    serial="root",
)
PLAIN = MachineSpec(
    lab="web",
    node="server",
    key="k1",
    uuid=UUID,
    uid=2_000_000_001,
    folder=Path("/s/nodes/k1"),
    run=Path("/r/n/k1"),
    vcpus=2,
    memory=256 << 20,
    machine=Machine.Q35,
    boot=(BootDevice.DISK, BootDevice.CDROM),
)
FDS = Descriptors(qmp=10, people=11, serial=12, agent=13)
GOLDEN = Path(__file__).parent / "golden"


def with_layers(machine: MachineSpec, fds: Descriptors = FDS) -> Descriptors:
    opened = {layer.node: BlockAttachment(fd=20 + layer.fdset) for layer in devices.layers(machine)}
    taps = {nic.id: 40 + index for index, nic in enumerate(machine.nics)}
    return replace(fds, layers=opened, taps=taps)


def build(machine: MachineSpec, fds: Descriptors = FDS) -> list[str]:
    return argv.build(machine, with_layers(machine, fds), "1a2b3c4d", 2_600_000)


MACHINES = {
    "q35": (
        replace(
            PLAIN,
            balloon=True,
            disks=(
                OVERLAY,
                Disk(id="data", ref=at(Path("/s/nodes/k1/data.qcow2")), format=ImageFormat.QCOW2),
            ),
            nics=(Nic(id="n0", mac="02:00:00:00:00:01"), Nic(id="n1", mac="02:00:00:00:00:02")),
        ),
        FDS,
    ),
    "pc-everything": (
        replace(
            PLAIN,
            machine=Machine.PC,
            balloon=True,
            kvm=True,
            display=Display.VNC,
            firmware=Firmware.UEFI,
            boot=(BootDevice.CDROM, BootDevice.NETWORK, BootDevice.DISK),
            disks=(
                replace(OVERLAY, bus=DiskBus.IDE),
                Disk(
                    id="scsi1",
                    ref=at(Path("/s/nodes/k1/x.raw")),
                    format=ImageFormat.RAW,
                    bus=DiskBus.SCSI,
                ),
                Disk(
                    id="cd0", ref=at(Path("/s/images/bb/disk")), format=ImageFormat.ISO, cdrom=True
                ),
            ),
            nics=(Nic(id="n0", mac="02:00:00:00:00:01", model=NicModel.E1000),),
        ),
        FDS,
    ),
    "microvm-kernel": (
        replace(
            PLAIN,
            machine=Machine.MICROVM,
            kernel=Path("/s/images/cc/kernel"),
            initrd=Path("/s/images/cc/initrd"),
            cmdline="console=ttyS0 quiet,comma init=/x",
            disks=(replace(OVERLAY, backing=()),),
            nics=(Nic(id="n0", mac="02:00:00:00:00:01"),),
        ),
        replace(FDS, kernel=14, initrd=15, config=16),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_golden(name: str) -> None:
    machine, fds = MACHINES[name]
    assert "\n".join(build(machine, fds)) + "\n" == (GOLDEN / f"argv-{name}.txt").read_text()


@pytest.mark.parametrize("name", MACHINES)
def test_the_same_machine_has_the_same_devices(name: str) -> None:
    machine, _ = MACHINES[name]
    moved = replace(machine, key="k9", run=Path("/q"), folder=Path("/p"), lab="other")
    assert devices.devices(machine) == devices.devices(moved)


def test_a_machine_without_a_balloon_is_what_it_was_before_there_were_any() -> None:
    # Checkpoints of then hold this digest, and their copies get the same machine.
    old = replace(MACHINES["q35"][0], balloon=False)
    digest = "c63f3b88116f39abe0df8d2edeb3f65225f619d81b1cf7e4ce943ec0c2178700"
    assert argv.fingerprint(old) == f"sha256:{digest}"
    assert argv.fingerprint(replace(old, balloon=True)) != argv.fingerprint(old)


def test_a_machine_with_the_cpu_of_the_host_is_what_it_was_before_there_was_another() -> None:
    # Checkpoints of then hold this digest; where that CPU works they must go on working.
    old = MACHINES["pc-everything"][0]
    digest = "8200746da4a8a05aa98c4311270c88b3a866ef22b4104f135a024e6158fa068b"
    assert argv.fingerprint(old) == f"sha256:{digest}"
    seen = {argv.fingerprint(replace(old, cpu=cpu)) for cpu in CpuSetting}
    assert len(seen) == len(CpuSetting)


def test_a_cpu_setting_is_of_kvm_alone() -> None:
    machine = MACHINES["pc-everything"][0]
    for cpu in CpuSetting:
        assert options(build(replace(machine, cpu=cpu)), "-cpu") == [str(cpu)]
        assert options(build(replace(machine, cpu=cpu, kvm=False)), "-cpu") == ["max"]


def test_memory_is_not_merged_when_the_administrator_says_so() -> None:
    for ram in (None, 30):
        fds = with_layers(PLAIN, replace(FDS, ram=ram))
        own = argv.build(PLAIN, fds, "1a2b3c4d", merge=False)
        others = argv.build(PLAIN, fds, "1a2b3c4d")
        assert json.loads(options(own, "-object")[0])["merge"] is False
        assert "merge" not in json.loads(options(others, "-object")[0])


def options(command: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(command) if option == name]


def test_no_path_of_the_host_is_in_it() -> None:
    for machine, fds in MACHINES.values():
        text = "\n".join(build(machine, fds))
        assert "/s/" not in text
        assert "/r/" not in text


def test_json_wherever_there_is_json() -> None:
    command = build(*MACHINES["pc-everything"])
    for option in ("-device", "-netdev", "-blockdev", "-object"):
        for value in options(command, option):
            assert isinstance(json.loads(value), dict)


def test_block_nodes_come_after_what_they_refer_to() -> None:
    for machine, _ in MACHINES.values():
        seen: set[object] = set()
        for node in devices.blockdevs(machine, with_layers(machine).layers):
            for key in ("file", "backing"):
                assert node.get(key) is None or node[key] in seen
            seen.add(node["node-name"])


def test_a_qcow2_never_follows_its_own_header() -> None:
    for machine, _ in MACHINES.values():
        for node in devices.blockdevs(machine, with_layers(machine).layers):
            assert node["driver"] != "qcow2" or "backing" in node


def test_no_two_devices_share_a_place() -> None:
    nics = tuple(Nic(id=f"n{i}", mac=f"02:00:00:00:00:{i:02x}") for i in range(20))
    disks = tuple(
        Disk(id=f"d{i}", ref=at(Path("/d")), format=ImageFormat.QCOW2, bus=bus)
        for i, bus in enumerate([DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.IDE] * 4)
    )
    machine = replace(PLAIN, nics=nics, disks=disks, display=Display.VNC, balloon=True)
    found = devices.devices(machine)
    places = [(d.get("bus"), d.get("addr"), d.get("unit"), d.get("scsi-id")) for d in found]
    places = [place for place in places if place[1:] != (None, None, None)]
    assert len(places) == len(set(places))
    assert len({d["id"] for d in found}) == len(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lab": "a,file=/etc/passwd"}, "'a,file=/etc/passwd/server' cannot name a machine: "),
        ({"key": "K1"}, "1a2b3c4d.K1 cannot mark a machine: use a-z, 0-9 and '-'"),
        (
            {"machine": Machine.MICROVM, "firmware": Firmware.UEFI},
            "machine microvm cannot start by firmware uefi: use q35, or firmware bios",
        ),
        (
            {"machine": Machine.MICROVM, "display": Display.VNC},
            "server: machine microvm has no display; use pc or q35",
        ),
        (
            {"machine": Machine.MICROVM, "disks": (replace(OVERLAY, bus=DiskBus.IDE),)},
            (
                "server: machine microvm has no PCI, and so no ide disk or CD-ROM: use bus virtio, "
                "or machine q35"
            ),
        ),
        (
            {
                "machine": Machine.MICROVM,
                "nics": (Nic(id="n0", mac="02:00:00:00:00:01", model=NicModel.E1000),),
            },
            (
                "server: machine microvm has no PCI, and so no e1000 NIC: use model virtio, or "
                "machine q35"
            ),
        ),
        (
            {
                "machine": Machine.PC,
                "disks": tuple(
                    replace(OVERLAY, id=f"d{i}", bus=DiskBus.IDE, backing=()) for i in range(5)
                ),
            },
            (
                "server has more than 4 IDE drives, CD-ROMs included, which machine pc cannot "
                "hold: use bus virtio or scsi"
            ),
        ),
        (
            {"disks": tuple(replace(OVERLAY, id=f"d{i}", backing=()) for i in range(16))},
            "server has more than 15 virtio disks: attach the others by bus scsi",
        ),
        (
            {"disks": (replace(OVERLAY, format=ImageFormat.RAW),)},
            "disk disk0: a raw file has no backing file; use qcow2",
        ),
        ({"cmdline": "a\0b"}, "server: the kernel command line has a control character in it"),
    ],
)
def test_what_a_machine_cannot_have(changes: dict[str, object], message: str) -> None:
    machine = replace(PLAIN, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        build(machine)
    assert caught.value.message.startswith(message)


def test_processes_are_recognised() -> None:
    command = build(PLAIN)
    assert argv.identify(command) == ("1a2b3c4d", "k1", UUID)
    assert argv.identify(["/usr/bin/" + command[0], *command[1:]]) is not None
    assert argv.identify(["vi", *command[1:]]) is None
    assert argv.identify(["unshare", "--net", "--", *command]) is None
    assert argv.identify([command[0], "-name", "guest=mine", "-uuid", UUID]) is None
    assert argv.identify([]) is None


@given(st.text(max_size=60).filter(str.isprintable))
def test_a_command_line_of_the_kernel_is_one_argument(text: str) -> None:
    machine = replace(PLAIN, kernel=Path("/k"), cmdline=text)
    command = build(machine, replace(FDS, kernel=14))
    assert options(command, "-append") == ([text] if text else [])


@given(st.integers(min_value=1, max_value=1 << 42))
def test_board_and_backend_agree_on_the_memory(size: int) -> None:
    command = build(replace(PLAIN, memory=size))
    [backend] = (json.loads(value) for value in options(command, "-object"))
    [board] = options(command, "-m")
    assert board == f"size={backend['size'] // 1024}k"
    assert backend["size"] >= size
