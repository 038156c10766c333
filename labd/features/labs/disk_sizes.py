"""A disk keeps the size that it was made with; an edited template is held to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.core.adapters import Adapters
from labd.core.resolve import DiskPlan, Sized, disk_plans
from labd.host.threads import quick
from labd.model.errors import InputError
from labd.model.units import format_size

_SECTOR = 512  # bytes; disks have whole ones


# Node -> name of a disk -> its virtual size in bytes, of the disks that there are.
Kept = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the disks have said before a transaction begins.

    Attributes:
        free: Bytes that are free where the disks are.
        kept: The disk files that a lab has already.
    """

    free: int = 0
    kept: Kept = field(default_factory=dict)


async def look_at(adapters: Adapters, lab: str) -> Ground:
    """Look at the disks for an intent, which may wait for nothing; the lab must be held."""
    nodes = await adapters.inventory.nodes(lab)
    kept = {node.name: await adapters.storage.sizes(node.key) for node in nodes}
    return Ground(free=await quick(adapters.disk_available), kept=kept)


def require_sizes(lab: str, old: Mapping[str, Sized], kept: Kept, new: Mapping[str, Sized]) -> None:
    """Raise InputError if a disk of a lab has another size in its new spec; pure.

    Args:
        lab: Its name, for messages.
        old: The present nodes by name; none of a new lab, and none where an image or profile of one
            has gone: the files tell what there is.
        kept: Of the disks that there are.
        new: The wanted nodes by name.

    Raises:
        InputError: One has.
    """
    require_same_sizes(lab, old, new)
    require_kept_sizes(lab, kept, new)


def require_same_sizes(lab: str, old: Mapping[str, Sized], new: Mapping[str, Sized]) -> None:
    """Raise InputError if a disk that there is has another size in the new spec.

    Another image makes another root disk, which may have any size.

    Args:
        lab: Its name, for messages.
        old: The present nodes by name.
        new: The wanted ones.

    Raises:
        InputError: One has another size.
    """
    for name, sized in new.items():
        before = _sizes(old[name]) if name in old else {}
        for file, size in _sizes(sized).items():
            if file in before and before[file] != size:
                raise _refusal(f"{lab}/{name}", file, before[file], size)


def require_kept_sizes(lab: str, kept: Kept, new: Mapping[str, Sized]) -> None:
    """Raise InputError if a disk file, also a kept one, has another size in the new spec.

    Args:
        lab: Its name, for messages.
        kept: Of the disks that there are.
        new: The wanted nodes by name.

    Raises:
        InputError: One has another size.
    """
    for name, found in kept.items():
        for file, size in _sizes(new[name]).items() if name in new else ():
            has = found.get(file)
            if has not in (None, size):
                raise _refusal(f"{lab}/{name}", file, has or 0, size)


def _sizes(sized: Sized) -> dict[str, int]:
    """Return file name -> virtual size in bytes of the disks of a node."""
    return {plan.ref.name: _size(plan) for plan in disk_plans(sized, "")}


def _size(plan: DiskPlan) -> int:
    size = plan.size if plan.size is not None or plan.image is None else plan.image.virtual_size
    return -(-(size or 0) // _SECTOR) * _SECTOR


def _refusal(ref: str, file: str, has: int, size: int) -> InputError:
    change = f"has {format_size(has)} and cannot become {format_size(size)}"
    if file.startswith("root-"):
        return InputError(
            f"the root disk of {ref} {change}: a disk keeps its size; leave it as it is, or "
            "destroy the lab first"
        )
    name = file.removeprefix("disk-").removesuffix(".qcow2")
    return InputError(
        f"disk {name} of {ref} {change}: a disk keeps its size; take it out, and add one under a "
        "new name"
    )
