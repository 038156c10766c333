"""The files under a machine's disks, and how they grow when the machine is saved. Pure.

A disk that a machine writes is a chain of qcow2 layers: its own overlay on top, below it those that
nobody writes any more, at the bottom perhaps an image. The part of the top's name before the first
dot stays the same for the life of the disk, and says what the disk stands on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from labd.model.checkpoints import CheckpointRecord, Growth, SavedDisk
from labd.model.disks import DiskKind, DiskRef
from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec

LIMIT = 48  # layers of one disk; each is an open file of its QEMU


def is_written(disk: Disk) -> bool:
    """True if a machine writes to a disk that is kept as a chain."""
    return disk.format is ImageFormat.QCOW2 and not disk.read_only and not disk.cdrom


def stem(disk: Disk) -> str:
    """Return the part of a disk's name that stays."""
    return disk.ref.stem


def grow(machine: MachineSpec, token: str) -> tuple[MachineSpec, tuple[Growth, ...]]:
    """Return the machine with a new top on each disk that it writes, and what is new.

    As long as a new top is empty, both chains have the same content. So the new one may be written
    down before QEMU knows of it, and holds whether or not it ever does.
    """
    grown, disks = [], []
    for disk in machine.disks:
        if not is_written(disk):
            disks.append(disk)
            continue
        top = disk.ref.beside(f"{stem(disk)}.{token}.qcow2")
        grown.append(Growth(disk=disk.id, top=top))
        below = ((disk.ref, disk.format), *disk.backing)
        disks.append(replace(disk, ref=top, backing=below))
    return replace(machine, disks=tuple(disks)), tuple(grown)


def own_layers(machine: MachineSpec) -> list[DiskRef]:
    """Return the frozen layers that are the machine's own still."""
    own = (DiskKind.MACHINE, machine.key)
    return [ref for disk in machine.disks for ref, _ in disk.backing if (ref.kind, ref.key) == own]


def settle(machine: MachineSpec, moved: Mapping[DiskRef, DiskRef]) -> MachineSpec:
    """Return the machine with its frozen layers where the store has them."""
    disks = tuple(
        replace(disk, backing=tuple((moved.get(ref, ref), form) for ref, form in disk.backing))
        for disk in machine.disks
    )
    return replace(machine, disks=disks)


def saved_disks(machine: MachineSpec, digest_of: Callable[[DiskRef], str]) -> tuple[SavedDisk, ...]:
    """Return what a checkpoint remembers of a machine whose frozen files are in the store."""
    found = []
    for disk in machine.disks:
        if not is_written(disk):
            continue
        layers = tuple(digest for ref, _ in disk.backing if (digest := digest_of(ref)))
        found.append(SavedDisk(id=disk.id, name=f"{stem(disk)}.qcow2", layers=layers))
    return tuple(found)


def forked(
    disks: Sequence[Disk],
    saved: Sequence[SavedDisk],
    layer: Callable[[str], DiskRef],
) -> tuple[Disk, ...]:
    """Return the disks of a copy: tops of its own on the frozen layers.

    Args:
        disks: Of a machine of the same spec that was never saved.
        saved: What the checkpoint remembers.
        layer: Digest -> its name in the store.
    """
    by_id = {item.id: item for item in saved}
    found = []
    for disk in disks:
        item = by_id.get(disk.id)
        if item is None or not is_written(disk):
            found.append(disk)
            continue
        below = tuple((layer(digest), ImageFormat.QCOW2) for digest in item.layers)
        found.append(replace(disk, ref=disk.ref.beside(item.name), backing=(*below, *bottom(disk))))
    return tuple(found)


def bottom(disk: Disk) -> tuple[tuple[DiskRef, ImageFormat], ...]:
    """Return the image under a disk of a machine that was never saved; nothing for a blank one."""
    return disk.backing[-1:]


def keep(machine: MachineSpec, last: MachineSpec | None) -> MachineSpec:
    """Return a machine that is built anew with the chains that its disks had in their last life.

    A disk is the same one when it has the same name before the dot, which tells the image too.
    """
    if last is None:
        return machine
    before = {stem(disk): disk for disk in last.disks if is_written(disk)}
    disks = []
    for disk in machine.disks:
        old = before.get(stem(disk)) if is_written(disk) else None
        disks.append(disk if old is None else replace(disk, ref=old.ref, backing=old.backing))
    return replace(machine, disks=tuple(disks))


def layers_of(record: CheckpointRecord) -> set[str]:
    """Return the digests of the layers of a checkpoint."""
    return {digest for node in record.nodes for disk in node.disks for digest in disk.layers}


def references(machine: MachineSpec | None, digest_of: Callable[[DiskRef], str]) -> set[str]:
    """Return the digests of the layers that a machine stands on."""
    if machine is None:
        return set()
    found = (digest_of(ref) for disk in machine.disks for ref, _ in disk.backing)
    return {digest for digest in found if digest}
