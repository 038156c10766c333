"""Whether the host has room: decided with numbers, before anything is started. Pure."""

from __future__ import annotations

from collections.abc import Callable

from labd.model.errors import NoRoom
from labd.model.units import format_size


def admit(
    lab: str, memories: list[int], *, available: int, reserve: int, overhead: int, promised: int = 0
) -> None:
    """Return when the nodes fit into the host's memory.

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
    """Return when the host holds so many forks more.

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
