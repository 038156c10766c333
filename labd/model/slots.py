"""Where NICs and disks of a node are attached: they stay there while others come and go.

A slot is a number from 0 that belongs to one NIC (or disk) of a node: its id, its tap and its PCI
address follow from it. In a spec as it is compiled there are no slots: each has that of its
position. When an edited spec takes the place of another one, `pin` gives what stays its old slot
and what is new a free one; it writes slots only where they differ from the positions. So devices
follow from the spec alone, and a restart, or a copy that is made of the machine, has the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

from labd.model.specs import DiskSpec, LabSpec, NicSpec, NodeSpec

PLUGGABLE_NICS: Final = 8  # slots with a PCI address of their own; above, they share one

_Item = TypeVar("_Item", NicSpec, DiskSpec)


def numbered(items: Sequence[_Item]) -> list[tuple[int, _Item]]:
    """Return (slot, item) in the order of the items."""
    return [(at if item.slot is None else item.slot, item) for at, item in enumerate(items)]


def pin(old: LabSpec | None, new: LabSpec) -> LabSpec:
    """Return `new` with the slots that its NICs and disks have beside those of `old`."""
    if old is None:
        return new
    before = {node.name: node for node in old.nodes}
    return replace(
        new,
        nodes=tuple(
            pin_node(before[node.name], node) if node.name in before else node for node in new.nodes
        ),
    )


def pin_node(old: NodeSpec, new: NodeSpec) -> NodeSpec:
    """Return `new` with the slots that its NICs and disks have beside those of `old`."""
    return replace(new, nics=_pin(old.nics, new.nics), disks=_pin(old.disks, new.disks))


def _pin(old: Sequence[_Item], new: Sequence[_Item]) -> tuple[_Item, ...]:
    had = {item.name: slot for slot, item in numbered(old)}
    slots = {item.name: had[item.name] for item in new if item.name in had}
    for item in new:
        if item.name not in slots:
            taken = set(slots.values())
            free = [slot for slot in range(len(new) + len(old)) if slot not in taken]
            # One that nobody had: what goes may still be there when the new one comes.
            fresh = [slot for slot in free if slot not in had.values() and slot < PLUGGABLE_NICS]
            slots[item.name] = (fresh or free)[0]
    if all(slots[item.name] == at for at, item in enumerate(new)):
        return tuple(replace(item, slot=None) for item in new)
    return tuple(replace(item, slot=slots[item.name]) for item in new)
