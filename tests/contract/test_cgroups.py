"""Control groups: the port, by the real kernel and the fake one.

The real one is mounted here afresh: cgroup v2 is one hierarchy, which every mount shows, and a
kernel has it also where its controllers are those of version 1.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from labd.core.ports import Cgroups
from labd.host import cgroups
from labd.host.cgroups import HostCgroups, Place
from labd.host.commands import run
from labd.host.identity import identify
from labd.host.spawn import Child, spawn
from labd.model.cgroups import Member
from labd.model.units import MIB
from tests.fakes.usage import FakeCgroups


@pytest.fixture
async def base(tmp_path: Path) -> AsyncIterator[Path]:
    """Return a group of our own that is not made yet."""
    mount = tmp_path / "cgroup2"
    mount.mkdir()
    await run(["mount", "-t", "cgroup2", "cgroup2", str(mount)], timeout=10)
    made = mount / f"labd-test-{os.getpid()}"
    yield made
    for group in [*made.glob("*/*"), *made.glob("*"), made]:
        with suppress(OSError):
            group.rmdir()
    left = made.exists()
    await run(["umount", str(mount)], timeout=10)
    assert not left


@pytest.fixture(params=["fake", "real"])
def port(request: pytest.FixtureRequest, base: Path) -> Cgroups:
    place = cgroups.look(base.parent, base)
    real = HostCgroups(Place(base=base, controllers=place.controllers))
    return real if request.param == "real" else FakeCgroups()


@pytest.fixture
async def children() -> AsyncIterator[list[Child]]:
    made = [await spawn(["sleep", "60"]) for _ in range(2)]
    yield made
    for child in made:
        await child.stop(0)


def member(child: Child, key: str, lab: str = "lab001") -> Member:
    return Member(lab=lab, key=key, process=child.process, memory=64 * MIB, vcpus=2, kvm=True)


async def test_each_machine_is_in_its_group_as_long_as_it_lives(
    port: Cgroups, children: list[Child]
) -> None:
    assert port.works()
    assert await port.groups() == []
    a, b = member(children[0], "k1"), member(children[1], "k2", "lab002")
    assert await port.outside([a, b]) == ["k1", "k2"]
    for _ in range(2):
        assert await port.hold([a, b]) == []
        assert await port.groups() == ["lab001/k1", "lab002/k2"]
        assert await port.outside([a, b]) == []
    # A group with a process cannot go; it goes when nobody is in it.
    await port.hold([a])
    assert await port.groups() == ["lab001/k1", "lab002/k2"]
    await children[1].stop(0)
    await port.hold([a])
    assert await port.groups() == ["lab001/k1"]
    assert await port.outside([a, b]) == []
    await children[0].stop(0)
    await port.hold([])
    assert await port.groups() == []


async def test_another_process_with_its_pid_is_left_alone(base: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    before = Path("/proc/self/cgroup").read_text()
    other = Member(
        lab="lab001", key="k1", process=replace(me, start_time_ticks=1), memory=MIB, vcpus=1,
        kvm=True,
    )  # fmt: skip
    port = HostCgroups(Place(base=base))
    assert await port.hold([other]) == []
    assert Path("/proc/self/cgroup").read_text() == before
    await port.hold([])
    assert not base.exists()


async def test_what_cannot_be_done_is_said_and_nothing_is_done_without_a_place(
    tmp_path: Path, children: list[Child]
) -> None:
    nothing = HostCgroups(Place())
    one = member(children[0], "k1")
    assert not nothing.works()
    assert await nothing.hold([one]) == await nothing.groups() == await nothing.outside([one]) == []
    (said,) = await HostCgroups(Place(base=tmp_path / "no" / "labd")).hold([one])
    assert said.endswith("No such file or directory")
