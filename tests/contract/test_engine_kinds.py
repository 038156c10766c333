"""Labs with nodes of two kinds, of which one has neither screen nor agent nor checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labd.core.guard import all_ports, changes
from labd.model.checkpoints import SaveMode
from labd.model.errors import CapabilityMissing, KindUnknown, StorageFailed, TemplateError
from labd.model.kinds import VM_ONLY
from labd.model.machine import RunState
from labd.model.names import NodeRef
from labd.model.specs import Accel, Display, GuestFile, LabSpec, NodeSpec, Readiness
from labd.model.states import LabState, NodeState
from labd.template import load
from tests.fakes.daemon import FakeDaemon, K, engine_over_fakes
from tests.fakes.light import LIGHT, OFFERS

KINDS = {**VM_ONLY, LIGHT: OFFERS}
MIXED = LabSpec(
    template="mixed",
    nodes=(
        NodeSpec(name="big", image="disk"),
        NodeSpec(name="small", kind=LIGHT, image="disk"),
    ),
)


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as daemon:
        yield daemon


async def test_a_mixed_lab_comes_up_and_each_node_with_its_driver(it: FakeDaemon) -> None:
    await it.up(MIXED)
    big, small = await it.key("big"), await it.key("small")
    assert set(it.host.machines) == {big}
    assert set(it.light.machines) == {small}
    await it.act(K.PAUSE)
    assert it.light.machines[small].state is RunState.PAUSED
    await it.act(K.RESUME)
    assert await it.states() == {"big": "ready", "small": "ready"}
    await it.act(K.STOP, "small", force=True)
    assert set(it.host.machines) == {big}
    assert not it.light.machines
    await it.act(K.START, "small")
    await it.act(K.DESTROY)
    await it.check_nothing()


async def test_the_end_of_a_light_node_is_heard(it: FakeDaemon) -> None:
    await it.up(MIXED)
    it.light.die(await it.key("small"))
    node = await it.until("small", NodeState.CRASHED)
    assert node.process is None
    assert (await it.until("big", NodeState.READY)).process is not None


async def test_the_next_daemon_adopts_each_with_its_driver(it: FakeDaemon) -> None:
    await it.up(MIXED)
    await it.restart()
    assert await it.states() == {"big": "ready", "small": "ready"}
    await it.act(K.STOP, "small", force=True)
    assert not it.light.machines
    assert it.host.machines


@pytest.mark.parametrize("at", range(1, 40))
async def test_a_death_at_any_call_leaves_nothing_behind(tmp_path: Path, at: int) -> None:
    async with engine_over_fakes(tmp_path) as it:
        it.crash.at = len(it.crash.calls) + at
        with suppress(StorageFailed):
            operation = await it.engine.labs.up("web", MIXED)
            await it.ended_or_dead(operation.id)
        await it.restart()
        await it.idle()
        if await it.inventory.lab("web"):
            await it.act(K.DESTROY)
        await it.check_nothing()


@pytest.mark.parametrize(
    ("wish", "lacks"),
    [
        ({"display": Display.VNC}, "display needs a screen"),
        ({"accel": Accel.KVM}, "accel needs a accelerator"),
        ({"ready": Readiness(agent=True)}, "ready needs a guest agent"),
        ({"startup": (("true",),)}, "startup needs a guest agent"),
        ({"files": (GuestFile(path="/a", content=""),)}, "files needs a guest agent"),
        ({"on_fork": (("true",),)}, "on_fork needs a checkpoint"),
    ],
)
async def test_a_node_that_asks_for_what_its_kind_lacks_is_refused(
    it: FakeDaemon, wish: dict[str, Any], lacks: str
) -> None:
    big, small = MIXED.nodes
    spec = replace(MIXED, nodes=(big, replace(small, **wish)))
    with pytest.raises(CapabilityMissing, match=f"node small: {lacks}.*of kind light"):
        await it.engine.labs.up("web", spec)
    await it.check_nothing()


async def test_an_unknown_kind_is_refused(it: FakeDaemon) -> None:
    spec = LabSpec(template="x", nodes=(NodeSpec(name="a", kind="lihgt", image="disk"),))
    with pytest.raises(KindUnknown, match=r"'lihgt'.*did you mean 'light'.*known: light, vm"):
        await it.engine.labs.up("web", spec)


async def test_features_refuse_by_name_what_a_kind_lacks(it: FakeDaemon) -> None:
    await it.up(MIXED)
    small = NodeRef("web", "small")
    with pytest.raises(CapabilityMissing, match="kind light have no screen"):
        await it.engine.screens.screenshot(small)
    with pytest.raises(CapabilityMissing, match="kind light have no screen"):
        async with it.engine.screens.viewer(small):
            pass
    with pytest.raises(CapabilityMissing, match="kind light have no guest agent"):
        await it.engine.guests.execute(small, ["true"], stdin=b"", timeout=1)
    with pytest.raises(CapabilityMissing, match="kind light have no guest agent"):
        async with it.engine.guests.read_file(small, "/etc/hosts"):
            pass
    with pytest.raises(CapabilityMissing, match="kind light have no checkpoints"):
        await it.engine.checkpoints.save("web", "one", mode=SaveMode.LIVE, message="")
    assert await it.states() == {"big": "ready", "small": "ready"}


async def test_a_console_goes_to_the_driver_of_its_node(it: FakeDaemon) -> None:
    await it.up(MIXED)
    async with it.engine.console.attach(NodeRef("web", "small")) as console:
        it.light.say(await it.key("small"), b"hello")
        said = b""
        while b"hello" not in said:
            said += await console.read()


async def test_a_node_of_another_kind_is_built_anew(it: FakeDaemon) -> None:
    await it.up(MIXED)
    big, small = MIXED.nodes
    await it.up(replace(MIXED, nodes=(big, replace(small, kind="vm"))))
    assert not it.light.machines
    assert len(it.host.machines) == 2
    assert (await it.lab()).state is LabState.RUNNING


def test_failpoints_stand_around_every_part_of_a_driver() -> None:
    ports = all_ports()
    assert "launch" in changes("nodes", ports["nodes"])
    assert "save" in changes("snapshots", ports["snapshots"])
    assert "plug_disk" in changes("devices", ports["devices"])
    assert changes("agents", ports["agents"]) == []


async def test_a_failpoint_of_nodes_is_reached_for_every_kind(it: FakeDaemon) -> None:
    it.order("nodes.launch:before = raise")
    await it.restart()
    spec = LabSpec(template="x", nodes=MIXED.nodes[1:])
    await it.fails(it.engine.labs.up("web", spec))
    await it.check_nothing()


# templates

TEXT = """name: lab
nodes:
  a:
    kind: {kind}
    image: disk
    display: vnc
"""


def test_a_template_names_the_place_of_an_unknown_kind() -> None:
    with pytest.raises(TemplateError) as caught:
        load(TEXT.format(kind="lihgt"), "lab.yaml", kinds=KINDS)
    assert caught.value.message == (
        "lab.yaml:4:11: node a, kind: there is no kind 'lihgt'; did you mean 'light'?; "
        "known: light, vm"
    )


def test_a_template_names_the_place_of_what_a_kind_lacks() -> None:
    with pytest.raises(TemplateError, match=r"lab.yaml:6:14: node a: kind light has no screen"):
        load(TEXT.format(kind=LIGHT), "lab.yaml", kinds=KINDS)


def test_a_template_says_vm_where_it_says_nothing() -> None:
    spec = load("name: lab\nnodes:\n  a:\n    image: disk\n", "lab.yaml", kinds=KINDS)
    assert spec.nodes[0].kind == "vm"
    assert load(TEXT.format(kind="vm"), "lab.yaml").nodes[0].kind == "vm"
