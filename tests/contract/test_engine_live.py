"""The engine on fakes: what a running lab takes while it runs, and what a failure leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labd.features.labs.views import Change
from labd.model.errors import InputError
from labd.model.images import ImageFormat
from labd.model.names import NodeRef
from labd.model.records import OperationKind
from labd.model.specs import DiskBus, DiskSpec, LabSpec, Machine, NicSpec, NodeSpec
from labd.model.units import MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import image, node, spec

K = OperationKind
ETH0 = NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01")
ETH1 = NicSpec(name="eth1", network="two", mac="02:00:00:00:00:02")
DATA = DiskSpec(name="data", size=MIB)
LOGS = DiskSpec(name="logs", size=MIB)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        for name in ("first", "second"):
            async with it.inventory.transaction() as tx:
                await tx.put_image(replace(image(name), format=ImageFormat.ISO))
            path = it.images.files(image(name))["disk"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"cd")
        yield it


def lab(*, networks: tuple[str, ...] = ("lan", "two"), **fields: Any) -> LabSpec:
    return spec(node("a", **{"nics": (ETH0,), **fields}), node("b"), networks=networks)


async def machine(home: FakeDaemon) -> dict[str, list[str]]:
    found = home.host.machines[await home.key("a")].spec
    return {
        "nics": [f"{nic.id} {nic.mac[-2:]}" for nic in found.nics],
        "disks": [f"{disk.id} {disk.serial}" for disk in found.disks if not disk.cdrom],
        "cd": ["" if d.empty else d.ref.key for d in found.disks if d.cdrom],
    }


async def change(home: FakeDaemon, new: LabSpec) -> list[str]:
    """Bring a lab to a spec, and return what was told of its devices."""
    pids = {key: m.process.pid for key, m in home.host.machines.items()}
    seq = await home.seq()
    await home.up(new)
    assert {key: m.process.pid for key, m in home.host.machines.items()} == pids
    events = [event.draft for event in await home.inventory.events(seq, 100)]
    return [
        f"{e.type} {' '.join(str(value) for value in e.data.values())}"
        for e in events
        if "device" in e.type or "medium" in e.type
    ]


async def test_a_running_node_takes_nics_and_disks(home: FakeDaemon) -> None:
    await home.up(lab(networks=("lan",)))
    new = lab(nics=(ETH0, ETH1), disks=(DATA, LOGS))
    assert await home.engine.labs.plan("web", new) == [
        Change(action="create", kind="network", name="two"),
        Change(
            action="update",
            kind="node",
            name="a",
            why="attach nic eth1; attach disk data; attach disk logs",
        ),
    ]
    assert await change(home, new) == [
        "node.device-attached disk data",
        "node.device-attached disk logs",
        "node.device-attached nic eth1",
    ]
    assert await machine(home) == {
        "nics": ["n0 01", "n1 02"],
        "disks": ["root root", "d0 data", "d1 logs"],
        "cd": [],
    }
    assert await home.engine.labs.plan("web", new) == []


async def test_what_stays_keeps_its_place_also_over_a_restart(home: FakeDaemon) -> None:
    await home.up(lab(nics=(ETH0, ETH1), disks=(DATA, LOGS)))
    third = replace(DATA, name="third")
    new = lab(nics=(ETH1,), disks=(LOGS, third))
    assert await change(home, new) == [
        "node.device-detached nic eth0",
        "node.device-detached disk data",
        "node.device-attached disk third",
    ]
    expected = {"nics": ["n1 02"], "disks": ["root root", "d1 logs", "d2 third"], "cd": []}
    assert await machine(home) == expected
    before = (await home.engine.console.node(NodeRef("web", "a"))).machine
    await home.restart()
    assert await home.engine.labs.plan("web", new) == []
    await home.act(K.RESTART, "a")
    assert await machine(home) == expected
    after = (await home.engine.console.node(NodeRef("web", "a"))).machine
    assert before is not None
    assert after is not None
    assert (before.nics, before.disks) == (after.nics, after.disks)
    # What a removed one had is free again.
    assert await change(home, lab(nics=(ETH1, ETH0), disks=(LOGS, third, DATA))) == [
        "node.device-attached disk data",
        "node.device-attached nic eth0",
    ]
    assert (await machine(home))["nics"] == ["n1 02", "n0 01"]


async def test_a_cd_is_changed(home: FakeDaemon) -> None:
    await home.up(lab(cdrom=""))
    assert (await machine(home))["cd"] == [""]
    assert await change(home, lab(cdrom="first")) == ["node.medium-changed first"]
    first = (await machine(home))["cd"]
    assert await change(home, lab(cdrom="second")) == ["node.medium-changed second"]
    assert (await machine(home))["cd"] != first
    users = (await home.engine.images.image("second"))[1]
    assert "web/a" in users
    await home.act(K.RESTART, "a")
    assert await change(home, lab(cdrom="")) == ["node.medium-changed "]
    with pytest.raises(InputError) as refused:
        await home.engine.labs.up("web", lab(cdrom="disk"))
    assert refused.value.message == (
        "node a: image disk is raw and no CD; `lab image ls` shows which are iso"
    )


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (
            {"machine": Machine.PC},
            {"machine": Machine.PC, "disks": (replace(DATA, bus=DiskBus.IDE),)},
            "disk data is on bus ide, which takes no disks while it runs",
        ),
        (
            {},
            {"disks": (replace(DATA, bus=DiskBus.SCSI),)},
            "disk data is the only one on bus scsi, whose controller goes with it",
        ),
        ({}, {"cdrom": ""}, "a CD-ROM drive comes or goes with a start only"),
        ({"disks": (DATA,)}, {"disks": (replace(DATA, bus=DiskBus.SCSI),)}, "disk data changes"),
        ({}, {"nics": (replace(ETH0, network="two"),)}, "NIC eth0 changes"),
        (
            {"nics": tuple(replace(ETH0, name=f"e{i}") for i in range(8))},
            {"nics": tuple(replace(ETH0, name=f"e{i}") for i in range(9))},
            "NIC e8 shares its slot with another one",
        ),
    ],
)
async def test_what_it_cannot_take_replaces_it(
    home: FakeDaemon, before: dict[str, Any], after: dict[str, Any], why: str
) -> None:
    await home.up(lab(**before))
    (step,) = await home.engine.labs.plan("web", lab(**after))
    assert (step.action, step.name) == ("replace", "a")
    assert step.why.endswith(f"({why})")
    process = home.host.machines[await home.key("a")].process
    await home.up(lab(**after))
    assert home.host.machines[await home.key("a")].process != process


KEEPS = "a disk keeps its size; take it out, and add one under a new name"


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {"disks": (DATA,)},
            {"disks": (replace(DATA, size=2 * MIB),)},
            f"disk data of web/a has 1 MiB and cannot become 2 MiB: {KEEPS}",
        ),
        (
            {"disks": (replace(DATA, size=2 * MIB), LOGS)},
            {"disks": (DATA, LOGS)},
            f"disk data of web/a has 2 MiB and cannot become 1 MiB: {KEEPS}",
        ),
        (
            {"disk": 2 * MIB},
            {"disk": 3 * MIB},
            (
                "the root disk of web/a has 2 MiB and cannot become 3 MiB: a disk keeps its size; "
                "leave it as it is, or destroy the lab first"
            ),
        ),
    ],
)
async def test_a_disk_keeps_its_size(
    home: FakeDaemon, before: dict[str, Any], after: dict[str, Any], message: str, runs: bool
) -> None:
    await home.up(lab(**before))
    if not runs:
        await home.act(K.DOWN)
    seq = await home.seq()
    for asked in (
        home.engine.labs.plan("web", lab(**after)),
        home.engine.labs.up("web", lab(**after)),
    ):
        with pytest.raises(InputError) as caught:
            await asked
        assert caught.value.message == message
    assert await home.seq() == seq
    await home.up(lab(**before))


async def test_a_disk_of_another_name_or_image_has_any_size(home: FakeDaemon) -> None:
    async with home.inventory.transaction() as tx:
        await tx.put_image(replace(image("other"), digest="sha256:" + "5" * 64))
    await home.up(lab(disk=2 * MIB, disks=(DATA,)))
    new = lab(disk=2 * MIB, disks=(replace(LOGS, size=2 * MIB),))
    (step,) = await home.engine.labs.plan("web", new)
    assert step.why == "detach disk data; attach disk logs"
    new = lab(disk=3 * MIB, disks=(DATA,))
    new = replace(new, nodes=(replace(new.nodes[0], image="other"), *new.nodes[1:]))
    (step,) = await home.engine.labs.plan("web", new)
    assert step.action == "replace"


def micro(**fields: Any) -> NodeSpec:
    return replace(node("a"), machine=Machine.MICROVM, **fields)


async def test_a_microvm_is_replaced(home: FakeDaemon) -> None:
    async with home.inventory.transaction() as tx:
        await tx.put_image(replace(image("k"), format=ImageFormat.KERNEL, files=("kernel",)))
    await home.up(spec(micro(image="k")))
    (step,) = await home.engine.labs.plan("web", spec(micro(image="k", disks=(DATA,))))
    assert step.action == "replace"
    assert step.why.endswith("(machine microvm takes no devices while it runs)")


async def test_a_failure_takes_back_what_was_plugged(home: FakeDaemon) -> None:
    old = lab(disks=(LOGS,))
    await home.up(old)
    before = await machine(home)
    home.host.no_place = {"n1"}
    error = await home.fails(home.engine.labs.up("web", lab(nics=(ETH0, ETH1), disks=(LOGS, DATA))))
    assert error["code"] == "qmp_refused"
    assert await machine(home) == before
    assert await home.engine.labs.plan("web", old) == []
    home.host.no_place = set()
    home.host.clings = {"n0"}
    error = await home.fails(home.engine.labs.up("web", lab(nics=(), disks=(DATA,))))
    assert error["code"] == "guest_failed"
    assert await machine(home) == before


async def test_a_paused_node_lets_nothing_go(home: FakeDaemon) -> None:
    await home.up(lab(disks=(DATA,)))
    await home.act(K.PAUSE, "a")
    error = await home.fails(home.engine.labs.up("web", lab()))
    assert error["message"] == (
        "cannot detach a device of web/a: it is paused, and must be ready or running"
    )
    assert await change(home, lab(disks=(DATA, LOGS))) == ["node.device-attached disk logs"]


async def test_a_node_that_is_stopped_has_them_at_its_next_start(home: FakeDaemon) -> None:
    await home.up(lab())
    await home.act(K.DOWN)
    await home.up(lab(disks=(DATA,)))
    assert (await machine(home))["disks"] == ["root root", "d0 data"]
