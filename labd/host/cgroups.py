"""Control groups, version 2 (the kernel's Documentation/admin-guide/cgroup-v2.rst).

    <base>/<lab key>/<machine key>

Each QEMU has a group of its own with a bound on memory and threads, each lab one with the sum and a
share of the CPUs. The base is below labd's own group where systemd has put labd into a subgroup
`daemon` of a delegated one (DelegateSubgroup=, from systemd 254 on): a group that holds processes
cannot bound groups below it, and a service whose own group bounds others could not be started again
while machines run. Elsewhere it is at the top, beside systemd's slices, where LXC and Docker have
theirs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.host.identity import is_alive
from labd.host.threads import quick
from labd.model.cgroups import Member
from labd.model.units import MIB

USED: Final = ("cpu", "memory", "pids")  # controllers
SUBGROUP: Final = "daemon"
_PERIOD = 100_000  # microseconds, of cpu.max
_THREADS = 1024  # of one QEMU: vCPUs, and workers for its disks
# QEMU itself besides the guest: its heap, video memory, threads. With TCG also what it has
# translated, for which it takes up to 1 GiB (QEMU, `tb-size`).
_SELF, _TRANSLATED = 512 * MIB, 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where groups can be made.

    Attributes:
        base: The group of a root's labs; None: there is no place.
        controllers: Of `USED`, those that can be had.
        problem: Why machines cannot be bounded, or not by everything; empty when they can.
    """

    base: Path | None = None
    controllers: tuple[str, ...] = ()
    problem: str = ""


def find(name: str, mountinfo: str, own: str) -> tuple[Path | None, Path | None]:
    """Return (parent, base) of the groups of a root called `name`; (None, None) without cgroup v2.

    Args:
        name: Of the root.
        mountinfo: Text of /proc/self/mountinfo (proc(5)).
        own: Text of /proc/self/cgroup (cgroups(7)).
    """
    found = re.search(r"^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 ", mountinfo, re.MULTILINE)
    if found is None:
        return None, None
    mount = Path(found[1])
    mine = re.search(r"^0::(/.*)$", own, re.MULTILINE)
    group = Path(mine[1]) if mine is not None else Path("/")
    parent = mount / group.parent.relative_to("/") if group.name == SUBGROUP else mount
    return parent, parent / f"labd-{name}"


def probe(name: str, proc: Path = Path("/proc/self")) -> Place:
    """Return where the groups of a root can be, without making one."""
    parent, base = find(
        name, (proc / "mountinfo").read_text(), (proc / "cgroup").read_text(errors="replace")
    )
    if parent is None or base is None:
        return Place(problem="there is no cgroup v2 on this host")
    return look(parent, base)


def look(parent: Path, base: Path) -> Place:
    """Return what a group below `parent` can bound."""
    try:
        there = (parent / "cgroup.controllers").read_text().split()
    except OSError as error:
        return Place(problem=f"{parent} cannot be read: {error.strerror}")
    usable = tuple(name for name in USED if name in there)
    lacks = [name for name in USED if name not in there]
    if not usable:
        return Place(
            problem=f"cgroup v2 at {parent} has no controller {', '.join(lacks)}: version 1 has "
            "them, or they are not handed down"
        )
    problem = f"cgroup v2 at {parent} has no controller {', '.join(lacks)}" if lacks else ""
    return Place(base=base, controllers=usable, problem=problem)


def bounds_of(member: Member) -> Mapping[str, str]:
    """Return file -> text for the group of a machine. Pure."""
    return {
        "memory.max": str(_memory(member)),
        # The machine as a whole: half of a QEMU is worth nothing.
        "memory.oom.group": "1",
        "cpu.weight": str(min(100 * member.vcpus, 10_000)),
        "pids.max": str(_THREADS),
    }


def bounds_of_lab(members: Sequence[Member]) -> Mapping[str, str]:
    """Return file -> text for the group of a lab. Pure.

    All labs have the same weight, so that a busy one takes nothing from the others. One CPU more
    than its guests have is for what QEMU does for them.
    """
    return {
        "memory.max": str(sum(map(_memory, members))),
        "cpu.weight": "100",
        "cpu.max": f"{(sum(item.vcpus for item in members) + 1) * _PERIOD} {_PERIOD}",
    }


def _memory(member: Member) -> int:
    return member.memory + _SELF + (0 if member.kvm else _TRANSLATED)


class HostCgroups:
    """Implements `core.ports_cgroups.Cgroups`.

    Args:
        place: Where; without a base nothing is done.
    """

    def __init__(self, place: Place) -> None:
        self._base = place.base
        self._controllers = place.controllers

    def works(self) -> bool:
        """True if there is a place for groups; see the port."""
        return self._base is not None

    async def hold(self, members: Sequence[Member]) -> Sequence[str]:
        """Have each machine in its group; see the port."""
        if self._base is None:
            return []
        return await quick(self._hold, self._base, members)

    async def groups(self) -> Sequence[str]:
        """Return the groups of machines; see the port."""
        if self._base is None:
            return []
        return [f"{lab}/{key}" for lab, key in await quick(_groups, self._base)]

    async def outside(self, members: Sequence[Member]) -> Sequence[str]:
        """Return who is not in its group; see the port."""
        if self._base is None:
            return []
        return await quick(_outside, self._base, members)

    def _hold(self, base: Path, members: Sequence[Member]) -> list[str]:
        problems: list[str] = []
        labs: dict[str, list[Member]] = {}
        for member in members:
            labs.setdefault(member.lab, []).append(member)
        try:
            if members:
                self._hand_down(base.parent)
                base.mkdir(exist_ok=True)
                self._hand_down(base)
            for lab, inside in labs.items():
                (base / lab).mkdir(exist_ok=True)
                self._write(base / lab, bounds_of_lab(inside))
        except OSError as error:
            return [f"group {error.filename}: {error.strerror}"]
        for lab, inside in labs.items():
            problems += self._hold_lab(base / lab, inside)
        _remove_others(base, {(item.lab, item.key) for item in members})
        return problems

    def _hold_lab(self, group: Path, members: Sequence[Member]) -> list[str]:
        """Have the machines of a lab in their groups; return why some are not."""
        problems: list[str] = []
        try:
            self._hand_down(group)
        except OSError as error:
            return [_problem(member, error) for member in members]
        for member in members:
            try:
                self._put(group / member.key, member)
            except OSError as error:
                problems.append(_problem(member, error))
        return problems

    def _hand_down(self, parent: Path) -> None:
        """Have a group hand the controllers down to those below it."""
        control = parent / "cgroup.subtree_control"
        handed = control.read_text().split()
        for name in self._controllers:
            if name not in handed:
                _write(control, f"+{name}")

    def _write(self, group: Path, bounds: Mapping[str, str]) -> None:
        for name, text in bounds.items():
            if name.partition(".")[0] in self._controllers:
                _write(group / name, text)

    def _put(self, group: Path, member: Member) -> None:
        group.mkdir(exist_ok=True)
        self._write(group, bounds_of(member))
        if member.process.pid in _processes(group):
            return
        # Between the two looks at who it is nobody else can get its pid: it lives.
        if is_alive(member.process):
            with contextlib.suppress(ProcessLookupError):
                _write(group / "cgroup.procs", str(member.process.pid))


def _problem(member: Member, error: OSError) -> str:
    return f"machine {member.key}: {error.filename}: {error.strerror}"


def _groups(base: Path) -> list[tuple[str, str]]:
    return [(lab.name, group.name) for lab in _below(base) for group in _below(lab)]


def _outside(base: Path, members: Sequence[Member]) -> list[str]:
    return [
        item.key
        for item in members
        if is_alive(item.process) and item.process.pid not in _processes(base / item.lab / item.key)
    ]


def _remove_others(base: Path, keep: Collection[tuple[str, str]]) -> None:
    """Remove the groups of nobody; one that still has processes stays until they have ended."""
    for lab, key in _groups(base):
        if (lab, key) not in keep:
            with contextlib.suppress(OSError):
                (base / lab / key).rmdir()
    for group in [*_below(base), base]:
        with contextlib.suppress(OSError):  # it has groups, or is not there
            group.rmdir()


def _processes(group: Path) -> set[int]:
    try:
        return {int(line) for line in (group / "cgroup.procs").read_text().split()}
    except OSError:
        return set()


def _below(group: Path) -> list[Path]:
    try:
        return sorted(entry for entry in group.iterdir() if entry.is_dir())
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)
