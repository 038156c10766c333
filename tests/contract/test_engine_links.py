"""What is done to the links of labs, on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.features.links.views import LinkChange
from labd.model.errors import InputError, NetworkFailed, NotFound
from labd.model.impairment import Impairment
from labd.model.names import NodeRef
from labd.model.specs import LabSpec, NetworkSpec, NicSpec
from labd.model.states import NodeState
from tests.fakes.daemon import FakeDaemon, K, engine_over_fakes
from tests.fakes.labs import node

SLOW = Impairment(rate=5_000_000)


def nic(name: str, network: str, mac: int) -> NicSpec:
    return NicSpec(name=name, network=network, mac=f"02:00:00:00:00:{mac:02x}")


SPEC = LabSpec(
    template="wires",
    networks=(NetworkSpec(name="wan", link=True), NetworkSpec(name="lan")),
    nodes=(
        node("a", nics=(nic("eth0", "wan", 1), nic("eth1", "lan", 2))),
        node("b", nics=(nic("eth0", "wan", 3),)),
        node("c", nics=(nic("eth0", "lan", 4),)),
    ),
)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def dark(home: FakeDaemon) -> set[str]:
    """Return `NODE/NIC id` of what has no carrier."""
    return {
        f"{machine.spec.node}/{name}"
        for machine in home.host.machines.values()
        for name in machine.dark
    }


def shapes(home: FakeDaemon) -> list[Impairment]:
    return [sends for found in home.links.shapes.values() for sends in found.values()]


async def test_a_cut_link_is_dark_at_both_ends_until_it_is_mended(home: FakeDaemon) -> None:
    await home.up(SPEC)
    seq = await home.seq()
    await home.engine.links.set("web", LinkChange(target="wan", down=True))
    assert await dark(home) == {"a/n0", "b/n0"}
    assert await home.story(seq) == ["link.changed a", "link.changed b"]
    await home.act(K.RESTART, "a")
    assert await dark(home) == {"a/n0", "b/n0"}, "it survives the restart of a node"
    await home.restart()
    assert await dark(home) == {"a/n0", "b/n0"}, "and that of labd"
    await home.engine.links.set("web", LinkChange(target="a/eth0", down=False))
    assert await dark(home) == {"b/n0"}
    await home.engine.links.reset("web")
    assert await dark(home) == set()


async def test_impairments_are_per_sender_and_survive(home: FakeDaemon) -> None:
    await home.up(SPEC)
    change = LinkChange(target="wan", sender="a", fields={"rate": 5_000_000})
    [view] = await home.engine.links.set("web", change)
    assert (view.node, view.nic, view.to, view.sends) == ("a", "eth0", ("b/eth0",), SLOW)
    assert shapes(home) == [SLOW]
    home.links.shapes.clear()
    await home.restart()
    assert shapes(home) == [SLOW]
    await home.act(K.DOWN)
    home.links.shapes.clear()
    await home.up(SPEC)
    assert shapes(home) == [SLOW]
    await home.engine.links.reset("web", "wan")
    assert shapes(home) == []


async def test_what_a_template_says_is_done_and_changed_without_a_restart(home: FakeDaemon) -> None:
    a, *others = SPEC.nodes
    cut = replace(a, nics=(replace(a.nics[0], down=True, sends=SLOW), a.nics[1]))
    await home.up(replace(SPEC, nodes=(cut, *others)))
    assert await dark(home) == {"a/n0"}
    assert shapes(home) == [SLOW]
    before = {key: machine.process for key, machine in home.host.machines.items()}
    await home.up(SPEC)
    assert await dark(home) == set()
    assert shapes(home) == []
    assert {key: m.process for key, m in home.host.machines.items()} == before


async def test_what_the_kernel_refuses_is_taken_back(home: FakeDaemon) -> None:
    await home.up(SPEC)
    home.links.fail = NetworkFailed("no")
    with pytest.raises(NetworkFailed):
        await home.engine.links.set("web", LinkChange(target="lan", fields={"rate": 9000}))
    home.links.fail = None
    assert home.engine.links.owes("web"), "part of it may have been done"
    assert not any(view.changed for view in await home.engine.links.show("web"))


async def fails_to_recover(home: FakeDaemon) -> None:
    """Have a new daemon that cannot look after impairments as it begins."""
    await home.kill_daemon()
    home.links.fail = NetworkFailed("netlink is busy")
    await home.start()
    home.links.fail = None


async def test_up_makes_up_for_a_recovery_that_failed(home: FakeDaemon) -> None:
    await home.up(SPEC)
    await home.engine.links.set("web", LinkChange(target="wan", fields={"rate": 5_000_000}))
    await home.engine.links.set("web", LinkChange(target="lan", down=True))
    home.links.shapes.clear()
    for machine in home.host.machines.values():
        machine.dark.clear()
    await fails_to_recover(home)
    assert await dark(home) == {"a/n1", "c/n0"}, "carriers are no impairments"
    assert shapes(home) == []
    await home.up(SPEC)
    assert shapes(home) == [SLOW, SLOW]
    assert not home.engine.links.owes("web")


async def test_nothing_is_owed_to_a_lab_that_is_gone(home: FakeDaemon) -> None:
    await home.up(SPEC)
    await fails_to_recover(home)
    assert home.engine.links.owes("web")
    await home.act(K.DESTROY)
    assert not home.engine.links.owes("web")


async def test_a_machine_that_hangs_is_switched_when_it_answers(home: FakeDaemon) -> None:
    await home.up(SPEC)
    machine = home.host.machines[await home.key("a")]
    machine.hung = True
    await home.engine.links.set("web", LinkChange(target="wan", down=True))
    assert await dark(home) == {"b/n0"}
    machine.hung = False
    await home.engine.state_writer.wait_node(
        NodeRef("web", "a"), set(NodeState) - {NodeState.UNRESPONSIVE}
    )
    await home.engine.links.sync("web")
    assert await dark(home) == {"a/n0", "b/n0"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            LinkChange(target="wam", down=True),
            "there is no link or network wam; did you mean 'wan'?",
        ),
        (LinkChange(target="a/eth7", down=True), "there is no NIC a/eth7; did you mean 'a/eth1'?"),
        (
            LinkChange(target="wan", sender="c", fields={"rate": 9000}),
            "c sends nothing into wan; these do: a/eth0, b/eth0",
        ),
        (
            LinkChange(target="a/eth0", sender="a", fields={"rate": 9000}),
            "a/eth0 names the sender already; leave the other out",
        ),
        (
            LinkChange(target="wan", sender="a", down=True),
            "a carrier is lost at every end: leave the sender out",
        ),
        (LinkChange(target="wan"), "nothing is said of what to change; give a rate, for example"),
        (LinkChange(target="wan", fields={"loss": 101}), "loss must be 0% to 100%, not 101%"),
        (
            LinkChange(target="wan", fields={"loss": 1}),
            "this kernel has no CONFIG_NET_SCH_NETEM",
        ),
    ],
)
async def test_bad_changes_change_nothing(home: FakeDaemon, change: LinkChange, says: str) -> None:
    await home.up(SPEC)
    seq = await home.seq()
    with pytest.raises((InputError, NotFound)) as caught:
        await home.engine.links.set("web", change)
    assert caught.value.message == says
    assert await home.seq() == seq
    assert await dark(home) == set()
