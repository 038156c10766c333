"""What the engine may rely on in uplinks: the fake, and the kernel in a host of the test's own."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import secrets
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from labd.drivers.network.linux import LabNetworks, LabUplinks, UplinkSettings
from labd.drivers.network.linux.names import link_name, table_name
from labd.drivers.network.linux.plan import plan
from labd.drivers.network.port import Uplinks
from labd.host import threads
from labd.model.errors import InputError, NetworkFailed
from labd.model.network import LabNetworkPlan
from labd.model.specs import AllowSpec, Gateway, LabSpec, NetworkSpec
from tests.fakes.services import FakeUplinks

_CLONE_NEWNET = 0x40000000  # sched.h
POOL = ipaddress.IPv4Network("198.18.0.0/24")
LAN = NetworkSpec(
    name="lan",
    subnet="10.0.0.0/24",
    uplink="nat",
    gateway=Gateway.LABD,
    gateway_address="10.0.0.1",
    allow=(AllowSpec(to="host", protocol="tcp", ports=(80,)),),
)
SIDE = NetworkSpec(
    name="side", subnet="10.0.1.0/24", gateway=Gateway.LABD, gateway_address="10.0.1.1"
)
ALONE = NetworkSpec(name="lan", subnet="10.0.0.0/24")
OFFICE = NetworkSpec(name="office", uplink="bridge:br-office")


def lab_plan(root: str, key: str, *networks: NetworkSpec) -> LabNetworkPlan:
    return plan(LabSpec(template="t", networks=networks), key, root, {})


class Home(Protocol):
    """A host with uplinks on it."""

    root: str
    uplinks: Uplinks

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something where the host is."""

    async def make(self, plan: LabNetworkPlan) -> None:
        """Make the namespace and the bridges of a plan."""

    def open(self) -> set[str]:
        """Return the namespaces of labs of which something is left on the host."""


class FakeHome:
    """The fake."""

    def __init__(self) -> None:
        self.root = "0badcafe"
        self.fake = FakeUplinks()
        self.uplinks: Uplinks = self.fake

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        asyncio.run(_settled(work))

    async def make(self, plan: LabNetworkPlan) -> None:
        pass

    def open(self) -> set[str]:
        return set(self.fake.open)


class RealHome:
    """The kernel: a namespace with a default route over `eth0`, and a bridge."""

    def __init__(self) -> None:
        self.root = secrets.token_hex(4)
        self.name = f"test-host-{self.root}"
        self.networks = LabNetworks(self.root)
        self.uplinks: Uplinks = self.adapter(self.root)
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for line in (
            "link set lo up",
            "link add eth0 type veth peer name far0",
            "link set far0 up",
            "link set eth0 up",
            "addr add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
            "link add br-office type bridge",
        ):
            self.sh("ip", *line.split())
        self.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")

    def adapter(self, root: str) -> LabUplinks:
        settings = UplinkSettings(transit=POOL, bridges=("br-office", "eth0"))
        return LabUplinks(root, settings)

    def sh(self, *argv: str) -> str:
        """Run a command on the host."""
        argv = ("nsenter", f"--net=/run/netns/{self.name}", "--", *argv)
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def forwarding(self) -> bool:
        """Tell whether the host forwards what comes in by eth0."""
        return self.sh("cat", "/proc/sys/net/ipv4/conf/eth0/forwarding").strip() == "1"

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run it in a thread that lives on the host; its children and threads do, too."""
        problems: list[BaseException] = []

        def enter() -> None:
            fd = os.open(Path("/run/netns") / self.name, os.O_RDONLY)
            try:
                assert ctypes.CDLL(None).setns(fd, _CLONE_NEWNET) == 0
                threads.renew()
                asyncio.run(_settled(work))
            except BaseException as error:  # noqa: BLE001 - raised where the test waits
                problems.append(error)
            finally:
                threads.renew()
                os.close(fd)

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join(300)
        assert not thread.is_alive(), "what runs on the host has not ended within 300 s"
        if problems:
            raise problems[0]

    async def make(self, plan: LabNetworkPlan) -> None:
        await self.networks.apply(plan)

    def open(self) -> set[str]:
        tables = self.sh("nft", "list", "tables").split()
        found = {t.replace("_", "-") for t in tables if t.startswith(f"labd_{self.root}_")}
        for line in self.sh("ip", "-o", "link").splitlines():
            _, mark, rest = line.partition(f"alias labd:{self.root}:")
            if mark:
                found.add(f"labd-{self.root}-{rest.split()[0]}")
            if f": v{self.root}" in line:
                found.add(f"labd-{self.root}-{line.partition(f': v{self.root}')[2][:6]}")
        return found

    def close(self) -> None:
        """Remove the host and the labs' namespaces."""
        names = [n for n in os.listdir("/run/netns") if n.startswith(f"labd-{self.root}-")]
        for name in (*names, self.name):
            subprocess.run(["ip", "netns", "del", name], check=True)


async def _settled(work: Callable[[], Awaitable[None]]) -> None:
    await work()


@pytest.fixture
def real() -> Iterator[RealHome]:
    home = RealHome()
    yield home
    home.close()


@pytest.fixture(params=["fake", "real"])
def home(request: pytest.FixtureRequest) -> Home:
    if request.param == "fake":
        return FakeHome()
    found = request.getfixturevalue("real")
    assert isinstance(found, RealHome)
    return found


@pytest.mark.parametrize("networks", [(LAN,), (LAN, SIDE), (OFFICE,), (LAN, OFFICE)])
def test_what_is_applied_is_there_until_it_is_removed(
    home: Home, networks: tuple[NetworkSpec, ...]
) -> None:
    made = lab_plan(home.root, "first1", *networks)

    async def work() -> None:
        await home.uplinks.check(made)
        await home.make(made)
        for _ in range(2):
            await home.uplinks.apply(made)
            assert home.open() == {made.namespace}
        for _ in range(2):
            await home.uplinks.remove(made.namespace)
            assert home.open() == set()

    home.run(work)


def test_a_plan_without_uplinks_takes_those_of_the_one_before(home: Home) -> None:
    before = lab_plan(home.root, "first1", LAN, OFFICE)
    after = lab_plan(home.root, "first1", ALONE)

    async def work() -> None:
        await home.make(before)
        await home.uplinks.apply(before)
        await home.uplinks.apply(after)
        assert home.open() == set()
        await home.uplinks.apply(after)

    home.run(work)


def test_a_sweep_keeps_what_it_is_told_to_keep(home: Home) -> None:
    kept = lab_plan(home.root, "first1", LAN)
    gone = lab_plan(home.root, "other2", LAN, OFFICE)

    async def work() -> None:
        for made in (kept, gone):
            await home.make(made)
            await home.uplinks.apply(made)
        assert home.open() == {kept.namespace, gone.namespace}
        assert list(await home.uplinks.sweep([kept.namespace])) == [gone.namespace]
        assert home.open() == {kept.namespace}
        assert list(await home.uplinks.sweep([kept.namespace])) == []
        await home.uplinks.remove(kept.namespace)
        assert home.open() == set()

    home.run(work)


# What only the kernel has


def test_forwarding_goes_with_the_last_lab_of_any_daemon(real: RealHome) -> None:
    other = secrets.token_hex(4)
    neighbour = real.adapter(other)
    first, second = lab_plan(real.root, "first1", LAN), lab_plan(other, "other2", LAN)

    async def work() -> None:
        await real.make(first)
        await real.uplinks.apply(first)
        assert real.forwarding()
        elsewhere = LabNetworks(other)
        await elsewhere.apply(second)
        try:
            await neighbour.apply(second)
            await real.uplinks.remove(first.namespace)
            assert real.forwarding(), "the neighbour still needs it"
            await neighbour.remove(second.namespace)
            assert not real.forwarding()
        finally:
            await elsewhere.remove(second.namespace)
        assert real.sh("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"

    real.run(work)


def test_a_router_stays_one(real: RealHome) -> None:
    made = lab_plan(real.root, "first1", LAN)

    async def work() -> None:
        real.sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
        await real.make(made)
        await real.uplinks.apply(made)
        assert "direction original drop" not in real.sh("nft", "list", "ruleset")
        await real.uplinks.remove(made.namespace)
        assert real.forwarding()

    real.run(work)


@pytest.mark.parametrize("lost", ["rules", "link", "namespace"])
def test_whatever_is_lost_the_rest_is_found_and_forwarding_ends(real: RealHome, lost: str) -> None:
    made = lab_plan(real.root, "first1", LAN)

    async def work() -> None:
        await real.make(made)
        await real.uplinks.apply(made)
        assert real.forwarding()
        if lost == "rules":
            real.sh("nft", "flush", "ruleset")
        elif lost == "link":
            real.sh("ip", "link", "del", link_name(made.namespace))
        else:
            await real.networks.remove(made.namespace)
        heir = real.adapter(real.root)
        assert list(await heir.sweep([])) == [made.namespace]
        assert real.open() == set()
        assert not real.forwarding()

    real.run(work)


@pytest.mark.parametrize("lost", ["rules", "link"])
def test_what_was_lost_is_made_anew(real: RealHome, lost: str) -> None:
    made = lab_plan(real.root, "first1", LAN)

    async def work() -> None:
        await real.make(made)
        await real.uplinks.apply(made)
        if lost == "rules":
            real.sh("nft", "flush", "ruleset")
        else:
            real.sh("ip", "link", "del", link_name(made.namespace))
        heir = real.adapter(real.root)
        assert list(await heir.sweep([made.namespace])) == []
        await heir.apply(made)
        assert table_name(made.namespace) in real.sh("nft", "list", "tables")
        assert "198.18.0." in real.sh("ip", "addr", "show", link_name(made.namespace))
        await heir.remove(made.namespace)
        assert real.open() == set()
        assert not real.forwarding()

    real.run(work)


@pytest.mark.parametrize("networks", [(LAN,), (OFFICE,)], ids=["nat", "bridge"])
@pytest.mark.parametrize("alias", ["", "theirs"])
def test_an_interface_of_somebody_else_is_neither_used_nor_removed(
    real: RealHome, networks: tuple[NetworkSpec, ...], alias: str
) -> None:
    made = lab_plan(real.root, "first1", *networks)
    assert made.uplinks is not None
    name = made.uplinks.link if made.uplinks.nat else made.uplinks.mapped[0].outer

    async def work() -> None:
        await real.make(made)
        real.sh("ip", "link", "add", name, "type", "bridge")
        real.sh("ip", "link", "set", name, "alias", alias)
        before = real.sh("ip", "addr", "show", name)
        with pytest.raises(NetworkFailed) as caught:
            await real.uplinks.apply(made)
        assert caught.value.message == (
            f"interface {name} of the host was not made by labd, and is in the way of an uplink; "
            f"rename or delete it: ip link del {name}"
        )
        await real.uplinks.remove(made.namespace)
        await real.adapter(real.root).sweep([])
        assert real.sh("ip", "addr", "show", name) == before
        assert real.sh("nft", "list", "tables") == ""
        assert not real.forwarding()
        real.sh("ip", "link", "del", name)
        await real.uplinks.apply(made)
        await real.uplinks.remove(made.namespace)

    real.run(work)


def test_one_whose_maker_died_before_it_was_marked_is_taken_over(real: RealHome) -> None:
    made = lab_plan(real.root, "first1", LAN)
    link = link_name(made.namespace)

    async def work() -> None:
        await real.make(made)
        await real.uplinks.apply(made)
        real.sh("ip", "link", "set", link, "alias", "")
        heir = real.adapter(real.root)
        await heir.apply(made)
        assert f"alias labd:{real.root}:first1" in real.sh("ip", "-o", "link", "show", link)
        real.sh("ip", "link", "set", link, "alias", "")
        await heir.remove(made.namespace)
        assert real.open() == set()

    real.run(work)


def test_no_uplink_leads_into_a_namespace_of_somebody_else(real: RealHome) -> None:
    made = lab_plan(real.root, "first1", LAN)
    theirs = made.namespace
    subprocess.run(["ip", "netns", "add", theirs], check=True)
    subprocess.run(["ip", "-n", theirs, "link", "set", "lo", "up"], check=True)

    async def work() -> None:
        with pytest.raises(NetworkFailed, match=f"namespace {theirs} was not made by labd"):
            await real.uplinks.apply(made)
        assert real.open() == set()
        assert not real.forwarding()

    real.run(work)


def test_what_fails_leaves_nothing(real: RealHome) -> None:
    made = lab_plan(real.root, "first1", LAN, OFFICE)

    async def work() -> None:
        await real.make(made)
        real.sh("ip", "link", "del", "br-office")
        with pytest.raises(InputError, match="the host has no interface br-office"):
            await real.uplinks.check(made)
        with pytest.raises(NetworkFailed, match="bridge br-office has gone"):
            await real.uplinks.apply(made)
        assert real.open() == set()
        assert not real.forwarding()

    real.run(work)
