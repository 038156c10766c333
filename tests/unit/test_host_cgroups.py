"""Where control groups of machines are, and what bounds them, without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.host.cgroups import bounds_of, bounds_of_lab, find, look, probe
from labd.model.cgroups import Member
from labd.model.process import ProcessId
from labd.model.units import MIB

UNIFIED = (
    "23 29 0:21 / /proc rw,nosuid - proc proc rw\n"
    "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
)
LEGACY = "36 24 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("mounts", "own", "parent"),
    [
        # systemd from 254 on: the unit is delegated, and its processes are in a subgroup.
        (UNIFIED, "0::/system.slice/l.service/daemon\n", "/sys/fs/cgroup/system.slice/l.service"),
        # An older one: what has processes cannot bound groups below it.
        (UNIFIED, "0::/system.slice/l.service\n", "/sys/fs/cgroup"),
        (UNIFIED, "0::/\n", "/sys/fs/cgroup"),
        (UNIFIED, "4:memory:/x\n", "/sys/fs/cgroup"),
        (LEGACY, "4:memory:/x\n", None),
    ],
)  # fmt: skip
def test_where_they_are(mounts: str, own: str, parent: str | None) -> None:
    expected = (None, None) if parent is None else (Path(parent), Path(parent) / "labd-1a2b")
    assert find("1a2b", mounts, own) == expected


def test_what_they_can_bound(tmp_path: Path) -> None:
    base = tmp_path / "labd"
    assert "cannot be read: No such file" in look(tmp_path, base).problem
    controllers = tmp_path / "cgroup.controllers"
    controllers.write_text("hugetlb\n")
    none = look(tmp_path, base)
    assert none.base is None
    assert none.problem.endswith(
        "has no controller cpu, memory, pids: version 1 has them, or they are not handed down"
    )
    controllers.write_text("cpuset cpu memory\n")
    some = look(tmp_path, base)
    assert (some.base, some.controllers) == (base, ("cpu", "memory"))
    assert some.problem.endswith("has no controller pids")
    controllers.write_text("cpuset cpu io memory pids\n")
    assert look(tmp_path, base).problem == ""


def test_a_host_without_version_2_says_so(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(LEGACY)
    (tmp_path / "cgroup").write_text("4:memory:/x\n")
    assert probe("1a2b", tmp_path).problem == "there is no cgroup v2 on this host"


def machine(*, kvm: bool, vcpus: int = 2) -> Member:
    process = ProcessId(pid=1, start_time_ticks=1, boot_id="b")
    return Member(lab="l", key="k", process=process, memory=256 * MIB, vcpus=vcpus, kvm=kvm)


def test_bounds() -> None:
    assert bounds_of(machine(kvm=True)) == {
        "memory.max": str(768 * MIB),
        "memory.oom.group": "1",
        "cpu.weight": "200",
        "pids.max": "1024",
    }
    assert bounds_of(machine(kvm=False))["memory.max"] == str(1792 * MIB)
    assert bounds_of(machine(kvm=True, vcpus=200))["cpu.weight"] == "10000"  # the most there is
    assert bounds_of_lab([machine(kvm=True), machine(kvm=True)]) == {
        "memory.max": str(1536 * MIB),
        "cpu.weight": "100",
        "cpu.max": "500000 100000",
    }
