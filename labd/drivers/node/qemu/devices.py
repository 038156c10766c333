"""The devices of a machine as JSON values for `-blockdev`, `-netdev` and `-device`. Pure.

PCI slots are fixed: 0x01 the bridge of q35, 0x02 display, 0x03 virtio-serial, 0x04 virtio-rng,
0x05 SCSI, 0x06 USB, 0x07 watchdog, 0x08-0x0f NICs (eight a function), 0x10-0x1e disks, 0x1f the
balloon. The root bus of q35 takes nothing while the machine runs, so NICs and disks are behind the
bridge there, under the same numbers, and so is the balloon, for 0x1f of the root bus is taken. On
microvm the devices are virtio-mmio ones, in the order of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.model.disks import BlockAttachment, DiskRef
from labd.model.errors import InputError
from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import BootDevice, DiskBus, Display, Firmware, Machine, NicModel

Device = dict[str, object]

CODE_NODE: Final = "uefi-code"
VARS_NODE: Final = "uefi-vars"
UEFI_CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
UEFI_VARS: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
# By path: what Debian has under this name in QEMU's own folder is qboot.
MICROVM_BIOS: Final = Path("/usr/share/seabios/bios-microvm.bin")
UEFI_VARS_COPY: Final = "uefi-vars.fd"  # in the machine's own folder

AGENT_PORT: Final = "org.qemu.guest_agent.0"
AGENT_ID: Final = "agent0"
BRIDGE_ID: Final = "hot0"
_MIB = 1 << 20
_FIRST_NIC, _FIRST_DISK, _LAST_DISK, _BALLOON = 0x08, 0x10, 0x1E, 0x1F
_IDE_PORTS = {Machine.PC: 4, Machine.Q35: 6}
_MMIO_TRANSPORTS = 24  # of a microvm with ioapic2=on (QEMU, hw/i386/microvm.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a machine's drives.

    Attributes:
        node: Name of its block node.
        source: A disk of the storage, or a file of the firmware.
        fdset: Number of the descriptor set by which QEMU finds it, from 1; not used for what has
            no descriptor.
    """

    node: str
    source: DiskRef | Path
    writable: bool
    fdset: int


def memory_size(size: int) -> int:
    """Return `size` bytes in whole MiB, rounded up: backend and board must agree to the byte."""
    return max(1, -(-size // _MIB)) * _MIB


def layers(machine: MachineSpec) -> list[Layer]:
    """Return everything that has to be opened, in the order of the descriptor sets."""
    files: list[tuple[str, DiskRef | Path, bool]] = []
    if machine.firmware is Firmware.UEFI:
        files.append((f"{CODE_NODE}-f", UEFI_CODE, False))
        files.append((f"{VARS_NODE}-f", machine.folder / UEFI_VARS_COPY, True))
    for disk in _filled(machine):
        files.append((f"{disk.id}-f", disk.ref, not _is_read_only(disk)))
        files += [
            (f"{disk.id}-b{index}-f", ref, False) for index, (ref, _) in enumerate(disk.backing)
        ]
    return [
        Layer(node=node, source=source, writable=writable, fdset=number)
        for number, (node, source, writable) in enumerate(files, start=1)
    ]


def protocol_node(attached: BlockAttachment, name: str, fdset: int, *, writable: bool) -> Device:
    """Return the `-blockdev` value by which QEMU gets at what the storage has attached.

    Args:
        attached: By the storage.
        name: Of the block node.
        fdset: Number of the descriptor set in which its descriptor is, if it has one.
        writable: The machine may write it.
    """
    return {
        "driver": attached.driver,
        "node-name": name,
        **attached.options,
        **({"filename": f"/dev/fdset/{fdset}"} if attached.fd is not None else {}),
        "read-only": not writable,
        **({"discard": "unmap"} if writable else {}),
    }


def blockdevs(machine: MachineSpec, attached: Mapping[str, BlockAttachment]) -> list[Device]:
    """Return `-blockdev` values, each after the ones it refers to.

    Args:
        machine: What they are for.
        attached: Block node of each of `layers` -> how QEMU gets at it.
    """
    nodes: list[Device] = [
        protocol_node(attached[layer.node], layer.node, layer.fdset, writable=layer.writable)
        for layer in layers(machine)
    ]
    if machine.firmware is Firmware.UEFI:
        nodes.append(_format_node(CODE_NODE, ImageFormat.RAW, read_only=True, backing=None))
        nodes.append(_format_node(VARS_NODE, ImageFormat.RAW, read_only=False, backing=None))
    for disk in _filled(machine):
        below: str | None = None
        for index, (_, layer_format) in reversed(list(enumerate(disk.backing))):
            name = f"{disk.id}-b{index}"
            nodes.append(_format_node(name, layer_format, read_only=True, backing=below))
            below = name
        nodes.append(
            _format_node(disk.id, disk.format, read_only=_is_read_only(disk), backing=below)
        )
    return nodes


def netdevs(machine: MachineSpec, taps: Mapping[str, int]) -> list[Device]:
    """Return `-netdev` values. The kernel's vhost is not used: QEMU sits in another namespace."""
    return [{"type": "tap", "id": nic.id, "fd": str(taps[nic.id])} for nic in machine.nics]


def devices(machine: MachineSpec) -> list[Device]:
    """Return `-device` values.

    Raises:
        InputError: The machine type cannot have them.
    """
    boot = _boot_indexes(machine)
    if machine.machine is Machine.MICROVM:
        return _microvm_devices(machine, boot)
    return [
        *_bridge(machine),
        *_standard_devices(machine),
        *_disk_devices(machine, boot),
        *_nics(machine, boot),
        *_balloon(machine),
    ]


def _balloon(machine: MachineSpec) -> list[Device]:
    """Return the device by which the guest tells what it does not use, so that QEMU lets it go."""
    if not machine.balloon:
        return []
    return [
        {
            "driver": "virtio-balloon-pci",
            "id": "balloon0",
            **_behind(machine),
            "addr": hex(_BALLOON),
            "free-page-reporting": True,
            # What is asked back of a guest is never what it needs itself.
            "deflate-on-oom": True,
        }
    ]


def _filled(machine: MachineSpec) -> list[Disk]:
    """Return the drives that have a file."""
    return [disk for disk in machine.disks if not disk.empty]


def _is_read_only(disk: Disk) -> bool:
    return disk.read_only or disk.cdrom or disk.format is ImageFormat.ISO


def _format_node(
    name: str, image_format: ImageFormat, *, read_only: bool, backing: str | None
) -> Device:
    node: Device = {
        "driver": "qcow2" if image_format is ImageFormat.QCOW2 else "raw",
        "node-name": name,
        "file": f"{name}-f",
        "read-only": read_only,
    }
    if not read_only:
        node["discard"] = "unmap"
    if image_format is ImageFormat.QCOW2:
        # Said even when there is none: QEMU must not follow what the file's header names.
        node["backing"] = backing
    elif backing is not None:
        raise InputError(f"disk {name}: a {image_format} file has no backing file; use qcow2")
    return node


def _bridge(machine: MachineSpec) -> list[Device]:
    if machine.machine is not Machine.Q35:
        return []
    return [{"driver": "pcie-pci-bridge", "id": BRIDGE_ID, "addr": "0x1"}]


def _behind(machine: MachineSpec) -> Device:
    """Return the bus of what may come and go while the machine runs."""
    return {"bus": BRIDGE_ID} if machine.machine is Machine.Q35 else {}


def _standard_devices(machine: MachineSpec) -> list[Device]:
    found: list[Device] = []
    if machine.display is Display.VNC:
        found += [
            {"driver": "VGA", "id": "vga0", "addr": "0x2"},
            {"driver": "qemu-xhci", "id": "usb0", "addr": "0x6"},
            # Absolute pointer, so that the viewer's and the guest's are at the same place.
            {"driver": "usb-tablet", "id": "tablet0", "bus": "usb0.0"},
        ]
    found += [
        {"driver": "virtio-serial-pci", "id": "vser0", "addr": "0x3", "max_ports": 4},
        _agent_port(),
        {"driver": "virtio-rng-pci", "id": "rng0", "addr": "0x4"},
        {"driver": "i6300esb", "id": "watchdog0", "addr": "0x7"},
        {"driver": "vmgenid", "id": "vmgenid0", "guid": "auto"},
        {"driver": "pvpanic", "id": "pvpanic0"},
    ]
    return found


def _agent_port() -> Device:
    # Without an id no VSERPORT_CHANGE event ever comes.
    return {
        "driver": "virtserialport",
        "id": AGENT_ID,
        "bus": "vser0.0",
        "nr": 1,
        "chardev": "agent",
        "name": AGENT_PORT,
    }


def _boot_indexes(machine: MachineSpec) -> dict[str, int]:
    """Return id of disk or NIC -> bootindex, from 1; a kernel needs none."""
    if machine.kernel is not None:
        return {}
    order: list[str] = []
    for device in machine.boot:
        match device:
            case BootDevice.DISK:
                order += [disk.id for disk in machine.disks if not disk.cdrom]
            case BootDevice.CDROM:
                order += [disk.id for disk in machine.disks if disk.cdrom]
            case BootDevice.NETWORK:
                order += [nic.id for nic in machine.nics]
    return {name: index for index, name in enumerate(dict.fromkeys(order), start=1)}


def _boot_index(name: str, boot: Mapping[str, int]) -> Device:
    return {"bootindex": boot[name]} if name in boot else {}


def _disk_devices(machine: MachineSpec, boot: Mapping[str, int]) -> list[Device]:
    found: list[Device] = []
    position, port, target = 0, 0, 0
    for disk in machine.disks:
        medium = {} if disk.empty else {"drive": disk.id}
        common: Device = {"id": f"dev-{disk.id}", **medium, **_boot_index(disk.id, boot)}
        if disk.serial:
            common["serial"] = disk.serial[:20]
        if disk.bus is DiskBus.SCSI:
            if target == 0:
                found.append({"driver": "virtio-scsi-pci", "id": "scsi0", "addr": "0x5"})
            driver = "scsi-cd" if disk.cdrom else "scsi-hd"
            place = target if disk.slot is None else disk.slot
            found.append({"driver": driver, "bus": "scsi0.0", "scsi-id": place, **common})
            target += 1
        elif disk.bus is DiskBus.IDE or disk.cdrom:
            driver = "ide-cd" if disk.cdrom else "ide-hd"
            found.append({"driver": driver, **_ide_place(machine, port), **common})
            port += 1
        else:
            slot = _FIRST_DISK + (position if disk.slot is None else disk.slot)
            if slot > _LAST_DISK:
                raise InputError(
                    f"{machine.node} has more than {_LAST_DISK - _FIRST_DISK + 1} virtio disks: "
                    "attach the others by bus scsi"
                )
            where: Device = {**_behind(machine), "addr": hex(slot)}
            found.append({"driver": "virtio-blk-pci", **where, "num-queues": 1, **common})
            position += 1
    return found


def _ide_place(machine: MachineSpec, port: int) -> Device:
    if port >= _IDE_PORTS[machine.machine]:
        raise InputError(
            f"{machine.node} has more than {_IDE_PORTS[machine.machine]} IDE drives, CD-ROMs "
            f"included, which machine {machine.machine} cannot hold: use bus virtio or scsi"
        )
    if machine.machine is Machine.PC:  # two channels with two drives each
        return {"bus": f"ide.{port // 2}", "unit": port % 2}
    return {"bus": f"ide.{port}", "unit": 0}  # the AHCI ports of q35


def _nics(machine: MachineSpec, boot: Mapping[str, int]) -> list[Device]:
    slots = _FIRST_DISK - _FIRST_NIC
    numbers = [at if nic.slot is None else nic.slot for at, nic in enumerate(machine.nics)]
    if max(numbers, default=0) >= slots * 8:
        raise InputError(f"{machine.node} has more than {slots * 8} NICs: drop some")
    found: list[Device] = []
    for number, nic in zip(numbers, machine.nics, strict=True):
        slot, function = _FIRST_NIC + number % slots, number // slots
        place: Device = {**_behind(machine), "addr": f"{slot:#x}.{function}"}
        if function == 0 and any(other > number and other % slots == number for other in numbers):
            place["multifunction"] = True
        found.append({**_nic(machine, nic), **place, **_boot_index(nic.id, boot)})
    return found


def _nic(machine: MachineSpec, nic: Nic) -> Device:
    driver = "virtio-net-pci" if nic.model is NicModel.VIRTIO else str(nic.model)
    device: Device = {
        "driver": driver,
        "id": f"dev-{nic.id}",
        "netdev": nic.id,
        "mac": nic.mac,
    }
    if BootDevice.NETWORK not in machine.boot or machine.kernel is not None:
        device["romfile"] = ""  # the boot ROM of each NIC costs start-up time and 512 KiB
    return device


def _microvm_devices(machine: MachineSpec, boot: Mapping[str, int]) -> list[Device]:
    found: list[Device] = [
        {"driver": "virtio-serial-device", "id": "vser0", "max_ports": 4},
        _agent_port(),
        {"driver": "virtio-rng-device", "id": "rng0"},
    ]
    if machine.display is not Display.NONE:
        raise InputError(f"{machine.node}: machine microvm has no display; use pc or q35")
    for disk in machine.disks:
        if disk.bus is not DiskBus.VIRTIO or disk.cdrom:
            raise InputError(
                f"{machine.node}: machine microvm has no PCI, and so no {disk.bus} disk or CD-ROM: "
                "use bus virtio, or machine q35"
            )
        device: Device = {"driver": "virtio-blk-device", "id": f"dev-{disk.id}", "drive": disk.id}
        device |= {"num-queues": 1, **_boot_index(disk.id, boot)}
        if disk.serial:
            device["serial"] = disk.serial[:20]
        found.append(device)
    for nic in machine.nics:
        if nic.model is not NicModel.VIRTIO:
            raise InputError(
                f"{machine.node}: machine microvm has no PCI, and so no {nic.model} NIC: "
                "use model virtio, or machine q35"
            )
        found.append(
            {
                "driver": "virtio-net-device",
                "id": f"dev-{nic.id}",
                "netdev": nic.id,
                "mac": nic.mac,
                **_boot_index(nic.id, boot),
            }
        )
    if len(machine.disks) + len(machine.nics) + 2 > _MMIO_TRANSPORTS:
        raise InputError(
            f"{machine.node}: machine microvm holds {_MMIO_TRANSPORTS - 2} disks and NICs; use q35"
        )
    return found
