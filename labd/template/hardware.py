"""Which devices go together: what machine types cannot have. Pure.

The rest of what a machine cannot have depends on its image, and is told by the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from labd.model.specs import BootDevice, DiskBus, Display, Firmware, Machine, NicModel
from labd.template.form import NodeForm

Path = tuple[str | int, ...]
# What is wrong with a node, at which path below it, and whether the key is meant.
Trouble = tuple[str, Path, bool]

_IDE_DRIVES: Final = {Machine.PC: 4, Machine.Q35: 6}
_MICROVM_DEVICES: Final = 22


def hardware_troubles(form: NodeForm) -> Iterator[Trouble]:
    """Return what the machine type of a node cannot have."""
    if form.machine is Machine.MICROVM:
        yield from _microvm(form)
    else:
        yield from _drives(form)


def _microvm(form: NodeForm) -> Iterator[Trouble]:
    """Refuse what needs PCI: see QEMU's docs/system/i386/microvm.rst."""
    broken: list[Path] = []
    if form.firmware is not Firmware.BIOS:
        broken.append(("firmware",))
    if form.display is not Display.NONE:
        broken.append(("display",))
    if form.disk_bus is not DiskBus.VIRTIO:
        broken.append(("disk_bus",))
    if form.cdrom is not None:
        broken.append(("cdrom",))
    if "boot" in form.model_fields_set and {*form.boot} - {BootDevice.DISK}:
        broken.append(("boot",))
    broken += [
        ("disks", disk, "bus")
        for disk, item in form.disks.items()
        if item.bus not in {None, DiskBus.VIRTIO}
    ]
    broken += [
        ("nics", nic, "model")
        for nic, item in form.nics.items()
        if item.model is not NicModel.VIRTIO
    ]
    for at in broken:
        yield (
            (
                "machine microvm has virtio disks and NICs only, and neither screen, "
                f"CD-ROM nor uefi; leave {at[-1]} out, or write machine: q35"
            ),
            at,
            False,
        )
    if len(form.disks) + len(form.nics) + 1 > _MICROVM_DEVICES:
        yield (
            f"machine microvm holds {_MICROVM_DEVICES} disks and NICs; write machine: q35",
            (),
            True,
        )


def _drives(form: NodeForm) -> Iterator[Trouble]:
    if len(set(form.boot)) != len(form.boot) or not form.boot:
        yield "boot must name each device once", ("boot",), False
    buses = [form.disk_bus, *(item.bus or form.disk_bus for item in form.disks.values())]
    limit = _IDE_DRIVES[form.machine]
    if buses.count(DiskBus.IDE) + (form.cdrom is not None) > limit:
        yield (
            (
                f"machine {form.machine} holds {limit} ide disks, a CD-ROM included; use bus "
                "virtio or scsi for more"
            ),
            ("disks",),
            True,
        )
