"""A disk keeps the size that it was made with; an edited template is held to that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from labd.engine.resolve import DiskPlan, Sized, disk_plans
from labd.engine.world import World
from labd.model.errors import InputError
from labd.model.records import LabRecord, NodeRecord
from labd.model.specs import LabSpec
from labd.model.units import format_size

_SECTOR = 512  # bytes; disks have whole ones


async def require_sizes(
    world: World,
    size: Callable[[LabSpec], Awaitable[Mapping[str, Sized]]],
    lab: LabRecord | None,
    nodes: Sequence[NodeRecord],
    sized: Mapping[str, Sized],
) -> None:
    """Return when no disk of a lab has another size in its new spec.

    Args:
        world: Of the daemon.
        size: Looks up the nodes of a spec.
        lab: As it is, None for a new one.
        nodes: Of the lab.
        sized: The wanted nodes by name.

    Raises:
        InputError: One has.
    """
    if lab is None:
        return
    try:
        old = await size(lab.spec)
    except InputError:  # an image or profile of it has gone; the files tell what there is
        old = {}
    require_same_sizes(lab.name, old, sized)
    folders = {node.name: world.node_folder(node.key) for node in nodes}
    await asyncio.to_thread(require_kept_sizes, lab.name, folders, sized)


def require_same_sizes(lab: str, old: Mapping[str, Sized], new: Mapping[str, Sized]) -> None:
    """Return when no disk that there is has another size in the new spec.

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


def require_kept_sizes(lab: str, folders: Mapping[str, Path], new: Mapping[str, Sized]) -> None:
    """Return when no disk file, also one kept from earlier, has another size in the new spec.

    Args:
        lab: Its name, for messages.
        folders: Node -> folder of its disks.
        new: The wanted nodes by name.

    Raises:
        InputError: One has another size.
    """
    for name, folder in folders.items():
        for file, size in _sizes(new[name]).items() if name in new else ():
            has = virtual_size(folder / file)
            if has not in (None, size):
                raise _refusal(f"{lab}/{name}", file, has or 0, size)


def _sizes(sized: Sized) -> dict[str, int]:
    """Return file name -> virtual size in bytes of the disks of a node."""
    return {plan.path.name: _size(plan) for plan in disk_plans(sized, Path())}


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


def virtual_size(path: Path) -> int | None:
    """Return the size that a qcow2 file claims (docs/interop/qcow2.txt), None when there is none.

    Its guest may have written what it likes: it is compared, and nothing more.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        head = os.read(fd, 32)
    finally:
        os.close(fd)
    return int.from_bytes(head[24:32], "big") if head.startswith(b"QFI\xfb") else None
