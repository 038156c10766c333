"""Whether the host has room: decided with numbers, before anything is started. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labd.core.resolve import Sized
from labd.model.errors import NoRoom, OverQuota
from labd.model.quotas import Quotas
from labd.model.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What all nodes of a lab have together, running or not; the fields are those of `Quotas`."""

    nodes: int
    vcpus: int
    memory: int
    disk: int


def demand(sized: Mapping[str, Sized]) -> Demand:
    """Return what the nodes of a lab ask for. CDs are not counted: all labs share their files."""
    nodes = sized.values()
    return Demand(
        nodes=len(sized),
        vcpus=sum(node.vcpus for node in nodes),
        memory=sum(node.memory for node in nodes),
        disk=sum(_disks(node) for node in nodes),
    )


def _disks(node: Sized) -> int:
    root = node.disk or (node.image.virtual_size if node.image.has_disk else 0)
    return root + sum(disk.size for disk in node.node.disks)


def require_within(lab: str, asked: Demand, quotas: Quotas) -> None:
    """Raise OverQuota unless a lab asks for no more than it may have.

    Raises:
        OverQuota: With the numbers of all that is too much.
    """
    pairs = {
        "nodes": (asked.nodes, quotas.nodes),
        "vcpus": (asked.vcpus, quotas.vcpus),
        "memory": (asked.memory, quotas.memory),
        "disk": (asked.disk, quotas.disk),
    }
    over = {name: pair for name, pair in pairs.items() if pair[1] and pair[0] > pair[1]}
    if not over:
        return
    words = {"nodes": "nodes", "vcpus": "vCPUs", "memory": "of memory", "disk": "of disk"}
    said = [
        f"{_number(name, has)} {words[name]} where {_number(name, may)} "
        f"{'is' if name in {'memory', 'disk'} or may == 1 else 'are'} allowed"
        for name, (has, may) in over.items()
    ]
    raise OverQuota(
        f"lab {lab} asks for {' and '.join(said)}; make it smaller, or have the administrator "
        "raise [quotas] in labd.toml",
        over={name: {"asked": has, "allowed": may} for name, (has, may) in over.items()},
    )


def _number(name: str, value: int) -> str:
    return format_size(value) if name in {"memory", "disk"} else str(value)


def admit(
    lab: str, memories: list[int], *, available: int, reserve: int, overhead: int, promised: int = 0
) -> None:
    """Raise NoRoom unless the nodes fit into the host's memory.

    Args:
        lab: For the message.
        memories: Bytes of memory of each node that would start.
        available: Bytes that the kernel says are available (`MemAvailable`, proc(5)).
        reserve: Bytes that are left to the host.
        overhead: Bytes that each QEMU process needs besides.
        promised: Bytes that nodes which are starting now have not touched yet.

    Raises:
        NoRoom: With the numbers.
    """
    needed = sum(memories) + overhead * len(memories)
    room = available - reserve - promised
    if needed <= room:
        return
    raise NoRoom(
        f"lab {lab} does not fit: its {len(memories)} nodes need {format_size(needed)}, and the "
        f"host has {format_size(max(room, 0))} free ({format_size(available)} available, "
        f"{format_size(reserve)} reserved, {format_size(promised)} promised to labs that are "
        "starting); stop a lab, or give the nodes less memory",
        needed=needed,
        available=available,
        reserve=reserve,
        promised=promised,
        nodes=len(memories),
    )


def admit_forks(due: int, each: int, room: int, say: Callable[[int, int], str]) -> None:
    """Raise NoRoom unless the host holds so many forks more.

    Args:
        due: Forks that would be made.
        each: Bytes that one of them may need for itself.
        room: Bytes that they may take.
        say: Makes the message of how many fit, and of the bytes that there are.

    Raises:
        NoRoom: They do not fit.
    """
    room = max(room, 0)
    fit = room // each if each else due
    if due > fit:
        raise NoRoom(say(fit, room), fit=fit, asked=due, each=each, room=room)
