"""The engine on fakes: which machines get a seed for cloud-init, and when it is another one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labd.core.resolve import size_node
from labd.features.labs.views import Change
from labd.model.errors import InputError
from labd.model.images import ImageFormat
from labd.model.machine import Disk
from labd.model.specs import CloudInitSpec, DiskBus, LabSpec, Machine
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import image, node, spec

HELLO = CloudInitSpec(user_data='{"runcmd":["echo hello"]}')


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


def lab(**fields: Any) -> LabSpec:
    return spec(node("a", **fields))


async def seeds(home: FakeDaemon) -> list[Disk]:
    found = home.host.machines[await home.key("a")].spec
    return [disk for disk in found.disks if disk.id == "seed"]


async def told(home: FakeDaemon) -> str:
    (seed,) = await seeds(home)
    return home.storage.path(seed.ref).read_text()


async def test_a_node_that_asks_for_none_gets_none(home: FakeDaemon) -> None:
    await home.up(lab())
    assert await seeds(home) == []


async def test_an_image_with_cloud_init_gives_its_nodes_a_seed(home: FakeDaemon) -> None:
    async with home.inventory.transaction() as tx:
        await tx.put_image(replace(image("disk"), cloud_init=True))
    await home.up(lab())
    said = await told(home)
    assert '"local-hostname": "a"' in said
    record = await home.inventory.lab("web")
    assert record is not None
    assert (await home.keys.ensure(record.key)).public in said


@pytest.mark.parametrize(
    ("bus", "cdrom", "slot"),
    [(DiskBus.VIRTIO, False, 14), (DiskBus.IDE, True, None), (DiskBus.SCSI, True, None)],
)
async def test_the_seed_is_on_the_bus_of_the_disks(
    home: FakeDaemon, bus: DiskBus, cdrom: bool, slot: int | None
) -> None:
    await home.up(lab(cloud_init=CloudInitSpec(), disk_bus=bus))
    (seed,) = await seeds(home)
    assert (seed.bus, seed.cdrom, seed.slot) == (bus, cdrom, slot)
    assert seed.read_only
    assert seed.format is ImageFormat.RAW


async def test_an_edited_template_makes_another_seed(home: FakeDaemon) -> None:
    await home.up(lab(cloud_init=HELLO))
    before = await told(home)
    assert "echo hello" in before
    new = lab(cloud_init=replace(HELLO, user_data='{"runcmd":["echo bye"]}'))
    (change,) = await home.engine.labs.plan("web", new)
    assert (change.action, change.name) == ("replace", "a")
    assert change.why.startswith("cloud_init.user_data: a text of ")
    await home.up(new)
    assert "echo bye" in await told(home)
    assert before.count("instance-id") == 1
    assert _instance(before) != _instance(await told(home))


async def test_the_same_template_makes_the_same_seed(home: FakeDaemon) -> None:
    await home.up(lab(cloud_init=HELLO))
    before = await told(home)
    assert await home.engine.labs.plan("web", lab(cloud_init=HELLO)) == list[Change]()
    await home.restart()
    assert await told(home) == before


def _instance(said: str) -> str:
    line = next(line for line in said.splitlines() if "instance-id" in line)
    return str(json.loads("{" + line.rstrip(",") + "}")["instance-id"])


def test_a_kernel_without_a_disk_has_no_cloud_init() -> None:
    kernel = replace(image("tiny"), format=ImageFormat.KERNEL, files=("kernel",))
    with pytest.raises(InputError) as caught:
        size_node(replace(node("a", cloud_init=HELLO), image="tiny"), {}, {"tiny": kernel})
    assert caught.value.message == (
        "node a: cloud_init is for images with cloud-init on a disk, and tiny is kernel; leave it "
        "out, or use image debian"
    )


def test_a_disk_with_its_kernel_takes_what_kernels_take() -> None:
    both = replace(image("deb"), format=ImageFormat.QCOW2, files=("disk", "kernel", "initrd"))
    one = replace(node("a", cmdline="debug", machine=Machine.MICROVM), image="deb")
    assert size_node(one, {}, {"deb": both}).image is both
