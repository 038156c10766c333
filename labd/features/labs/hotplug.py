"""Which changes of a node its machine takes while it runs, and in which steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

from labd.model.impairment import describe
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.slots import PLUGGABLE_NICS, numbered
from labd.model.specs import DiskBus, DiskSpec, Machine, NicSpec, NodeSpec
from labd.template.form import NodeForm
from labd.template.keys import Effect, effects
from labd.template.node_parts import NicForm

_EFFECTS: Final = effects(NodeForm)
# Fields whose change a running machine takes, if `obstacle` finds nothing against it.
HOT_FIELDS: Final = frozenset(name for name, effect in _EFFECTS.items() if effect is Effect.LIVE)
# Fields of a NIC that are no business of its machine.
_LINK_FIELDS: Final = [
    item
    for item in fields(NicSpec)
    if effects(NicForm).get(item.name, Effect.RESTART) is Effect.LIVE
]

_Item = TypeVar("_Item", NicSpec, DiskSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What to do to a running machine, in this order.

    Attributes:
        medium: The CD-ROM drive as it shall be, None when it stays as it is.
    """

    unplug_nics: tuple[Nic, ...] = ()
    unplug_disks: tuple[Disk, ...] = ()
    plug_disks: tuple[Disk, ...] = ()
    plug_nics: tuple[Nic, ...] = ()
    medium: Disk | None = None

    def __bool__(self) -> bool:
        """There is anything to do."""
        return any(getattr(self, item.name) for item in fields(self))

    @property
    def asks_guest(self) -> bool:
        """The guest has to let go of something."""
        return bool(self.unplug_nics or self.unplug_disks)


def needs_replacing(old: NodeSpec, new: NodeSpec, *, iso: bool = False) -> bool:
    """True if the machine must be built anew to get from one spec to the other.

    Args:
        old: The present spec.
        new: The wanted one, with its slots (`slots.pin`).
        iso: The node's image is an ISO, so that it has a CD-ROM drive in any case.
    """
    hard = any(
        getattr(old, item.name) != getattr(new, item.name)
        for item in fields(NodeSpec)
        if _EFFECTS.get(item.name, Effect.RESTART) is Effect.RESTART
    )
    return hard or bool(obstacle(old, new, iso=iso))


def obstacle(old: NodeSpec, new: NodeSpec, *, iso: bool = False) -> str:
    """Return why a running machine cannot take a change of its hot fields; empty when it can."""
    old, new = _unimpaired(old), _unimpaired(new)
    if all(getattr(old, name) == getattr(new, name) for name in HOT_FIELDS):
        return ""
    if Machine.MICROVM in {old.machine, new.machine}:
        return "machine microvm takes no devices while it runs"
    if (old.cdrom is None) != (new.cdrom is None) and not iso:
        return "a CD-ROM drive comes or goes with a start only"
    return next(_nic_obstacles(old, new), "") or next(_disk_obstacles(old, new), "")


def _unimpaired(node: NodeSpec) -> NodeSpec:
    """Return a node with perfect links: what they do is not its machine's business."""
    perfect = NicSpec(name="", network="", mac="")
    neutral: dict[str, Any] = {item.name: getattr(perfect, item.name) for item in _LINK_FIELDS}
    return replace(node, nics=tuple(replace(nic, **neutral) for nic in node.nics))


def _nic_obstacles(old: NodeSpec, new: NodeSpec) -> Iterator[str]:
    before, after = dict(numbered(old.nics)), dict(numbered(new.nics))
    names = {nic.name for nic in after.values()}
    for slot, nic in before.items():
        there = after.get(slot)
        if there is not None and _bare(there) == _bare(nic):
            continue
        if nic.name in names or there is not None:
            yield f"NIC {nic.name} changes"
    for slot in before.keys() ^ after.keys():
        name = (before.get(slot) or after[slot]).name
        shares = {slot % PLUGGABLE_NICS, slot % PLUGGABLE_NICS + PLUGGABLE_NICS} - {slot}
        if slot >= PLUGGABLE_NICS or shares & (before.keys() | after.keys()):
            yield f"NIC {name} shares its slot with another one"


def _disk_obstacles(old: NodeSpec, new: NodeSpec) -> Iterator[str]:
    before, after = dict(numbered(old.disks)), dict(numbered(new.disks))
    names = {disk.name for disk in after.values()}
    kept: list[DiskSpec] = []
    for slot, disk in before.items():
        there = after.get(slot)
        if there is not None and _bare(there) == _bare(disk):
            kept.append(disk)
        elif disk.name in names or there is not None:
            yield f"disk {disk.name} changes"
    for slot in before.keys() ^ after.keys():
        disk = before.get(slot) or after[slot]
        if disk.bus is DiskBus.IDE:
            yield f"disk {disk.name} is on bus ide, which takes no disks while it runs"
        if disk.bus is DiskBus.SCSI and all(item.bus is not DiskBus.SCSI for item in kept):
            yield f"disk {disk.name} is the only one on bus scsi, whose controller goes with it"


def _bare(item: _Item) -> tuple[object, ...]:
    return tuple(getattr(item, field.name) for field in fields(item) if field.name != "slot")


def outline(old: NodeSpec, new: NodeSpec) -> list[str]:
    """Return what a change of hot fields does, for people."""
    found = []
    for kind, before, after in (("nic", old.nics, new.nics), ("disk", old.disks, new.disks)):
        found += [f"detach {kind} {name}" for name in _left_out(before, after)]
        found += [f"attach {kind} {name}" for name in _left_out(after, before)]
    found += _links(old, new)
    if old.cdrom != new.cdrom:
        found.append(f"insert {new.cdrom}" if new.cdrom else "eject the CD")
    return found


def _links(old: NodeSpec, new: NodeSpec) -> list[str]:
    before = {nic.name: nic for nic in old.nics}
    found = []
    for nic in new.nics:
        was = before.get(nic.name)
        if was is not None and was.down != nic.down:
            found.append(f"nic {nic.name} {'down' if nic.down else 'up'}")
        if was is not None and was.sends != nic.sends:
            found.append(f"nic {nic.name} sends with {describe(nic.sends) or 'no impairment'}")
    return found


def _left_out(
    items: Sequence[NicSpec | DiskSpec], others: Sequence[NicSpec | DiskSpec]
) -> list[str]:
    names = {other.name for other in others}
    return [item.name for item in items if item.name not in names]


def live_steps(now: MachineSpec, then: MachineSpec) -> Steps:
    """Return how to get a running machine from what it has to what it shall have."""
    drives = {disk.id: disk for disk in now.disks if disk.cdrom}
    medium = next((d for d in then.disks if d.cdrom and d.id in drives and d != drives[d.id]), None)
    there = {_place(disk) for disk in now.disks}
    wanted = {_place(disk) for disk in then.disks}
    return Steps(
        unplug_nics=tuple(nic for nic in now.nics if nic not in then.nics),
        unplug_disks=tuple(d for d in now.disks if not d.cdrom and _place(d) not in wanted),
        plug_disks=tuple(d for d in then.disks if not d.cdrom and _place(d) not in there),
        plug_nics=tuple(nic for nic in then.nics if nic not in now.nics),
        medium=medium,
    )


def _place(disk: Disk) -> tuple[object, ...]:
    """Return what makes a disk the same one; its files grow with each checkpoint."""
    return disk.id, disk.bus, disk.slot, disk.serial, disk.cdrom
