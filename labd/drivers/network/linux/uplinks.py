"""The adapter of uplinks: NAT and mapped networks (`core.ports.Uplinks`).

The kernel is the register. A lab's table on the host has the name of its namespace, its interfaces
have an alias with the lab's key, and what labd switched on for it stands in both: a firewall that
is loaded anew flushes the one, whoever deletes a namespace takes the other along. So a daemon that
comes after a crash, or another one on this host, reads what there is and keeps no file.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from labd.drivers.network.linux import links, netns, nft
from labd.drivers.network.linux import uplink_interfaces as ways
from labd.drivers.network.linux.names import lab_mark, link_group, link_name, table_name
from labd.drivers.network.linux.rules import (
    FORWARDING,
    LAB_TABLE,
    Outside,
    Transit,
    host_rules,
    lab_rules,
    no_rules,
)
from labd.drivers.network.linux.transit import choose
from labd.host.facts import KERNEL_OPTIONS, try_feature
from labd.host.threads import quick
from labd.model.errors import InputError, NetworkFailed
from labd.model.network import LabNetworkPlan, MappedPlan, UplinkPlan

_EVERY_ROOT = "labd_"
_TURN = 0.02  # seconds between tries to get the turn


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkSettings:
    """What the administrator chose.

    Attributes:
        transit: Labs' transit addresses come from it.
        outside: Interfaces by which labs reach the outside; empty: those of the default routes.
        closed: Subnets that no lab reaches but by `allow`.
        bridges: Bridges of the host that a template may name.
    """

    transit: ipaddress.IPv4Network
    outside: Sequence[str] = ()
    closed: Sequence[ipaddress.IPv4Network] = ()
    bridges: Sequence[str] = ()


class LabUplinks:
    """The uplinks of the labs of one root.

    Args:
        root_id: Marks what is this root's; nothing else is ever removed.
        settings: Of the administrator.
    """

    def __init__(self, root_id: str, settings: UplinkSettings) -> None:
        self._root_id = root_id
        self._group = link_group(root_id)
        self._settings = settings
        self._lock = asyncio.Lock()
        self._tried: set[str] = set()
        # Namespaces that may have something: labs without uplinks shall cost nothing.
        self._known: set[str] = set()

    async def check(self, plan: LabNetworkPlan) -> None:
        """True if the uplinks of a plan could be had; see the port."""
        wanted = plan.uplinks
        if wanted is None:
            return
        host = await quick(ways.look)
        for mapped in wanted.mapped:
            self._check_bridge(mapped, host)
            await self._require("veth", f"network {mapped.network}: uplink bridge")
            if mapped.vlan:
                await self._require("vlan", f"network {mapped.network}: vlan {mapped.vlan}")
        if wanted.routes:
            await self._require("nftables nat", "gateway: labd")
        if wanted.nat:
            await self._require("veth", "uplink nat")
            self._interfaces(host)
            if wanted.link not in host.links:
                choose(self._settings.transit, host.taken, plan.namespace)

    def _check_bridge(self, mapped: MappedPlan, host: ways.Host) -> None:
        where, name = f"network {mapped.network}", mapped.host_bridge
        if name not in self._settings.bridges:
            raise InputError(
                f"{where}: bridge {name} is not one that labs may use; the administrator lists "
                "those as bridges in [network] of labd.toml"
            )
        if name not in host.links:
            raise InputError(
                f"{where}: the host has no interface {name}; make it: "
                f"ip link add {name} type bridge"
            )
        if name not in host.bridges:
            raise InputError(
                f"{where}: {name} is no bridge; make one, put {name} in it, and list that in "
                "labd.toml"
            )

    async def _require(self, feature: str, what: str) -> None:
        if feature in self._tried:
            return
        if why := await try_feature(feature):
            raise NetworkFailed(
                f"{what} needs {KERNEL_OPTIONS[feature]} of the kernel: {why}; "
                "`lab doctor` tells more"
            )
        self._tried.add(feature)

    def _interfaces(self, host: ways.Host) -> Sequence[str]:
        """Return the interfaces by which labs reach the outside.

        Raises:
            InputError: There are none.
        """
        found = [name for name in self._settings.outside if name in host.links]
        if missing := [name for name in self._settings.outside if name not in host.links]:
            raise InputError(
                f"uplink nat: the host has no interface {missing[0]}; mend outside in [network] "
                "of labd.toml"
            )
        if not found and not host.default:
            raise InputError(
                "uplink nat: the host has no default route; add one, or name the interface as "
                "outside in [network] of labd.toml"
            )
        return found or host.default

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Make the uplinks as planned; see the port."""
        namespace, wanted = plan.namespace, plan.uplinks
        if wanted is None:
            if namespace in self._known:
                async with self._turn():
                    await self._clear(namespace)
            return
        async with self._turn(), AsyncExitStack() as undo:
            if namespace not in self._known:
                undo.push_async_callback(self._clear, namespace)
            self._known.add(namespace)
            host = await quick(ways.look)
            await self._require_own(namespace, wanted, host)
            await self._drop_old(namespace, wanted, host)
            transit = await self._open_nat(namespace, wanted, host) if wanted.nat else None
            if wanted.routes:
                await nft.load(lab_rules(wanted, transit), namespace=namespace)
                await netns.inside(namespace, lambda: ways.set_routing(wanted=True))
            if transit is not None:
                found = transit
                await netns.inside(namespace, lambda: ways.raise_inner(found))
                await quick(ways.raise_outer, wanted.link, transit)
            for mapped in wanted.mapped:
                await self._map(namespace, mapped)
            undo.pop_all()

    async def _require_own(self, namespace: str, wanted: UplinkPlan, host: ways.Host) -> None:
        """Return unless somebody else has something by a name that the uplinks of a lab have.

        Raises:
            NetworkFailed: It is untouched.
        """
        names = {mapped.outer for mapped in wanted.mapped} | (
            {wanted.link} if wanted.nat else set()
        )
        if foreign := sorted((names & host.links.keys()) - self._links_of(host, namespace)):
            raise NetworkFailed(
                f"interface {foreign[0]} of the host was not made by labd, and is in the way of "
                f"an uplink; rename or delete it: ip link del {foreign[0]}"
            )
        if await netns.inside(namespace, self._is_foreign):
            raise NetworkFailed(
                f"namespace {namespace} was not made by labd; rename or delete it: "
                f"ip netns del {namespace}"
            )

    def _is_foreign(self) -> bool:
        return links.is_foreign(f"labd:{self._root_id}")

    def _links_of(self, host: ways.Host, namespace: str) -> set[str]:
        """Return a lab's interfaces on the host; one may have died before it got its alias."""
        mark, link = lab_mark(namespace), link_name(namespace)
        found = {name for name, alias in host.links.items() if _mark(alias) == mark}
        if host.links.get(link) == "" and host.groups[link] == self._group:
            found.add(link)
        return found

    async def _drop_old(self, namespace: str, wanted: UplinkPlan, host: ways.Host) -> None:
        """Remove what an earlier plan had and this one has not."""
        keep = {mapped.outer for mapped in wanted.mapped} | ({wanted.link} if wanted.nat else set())
        there = self._links_of(host, namespace)
        if wanted.link in there and not wanted.nat:
            await self._close_host(namespace, host)
        await quick(ways.delete, sorted(there - keep))
        if not wanted.routes:
            await self._clear_inside(namespace)

    async def _open_nat(self, namespace: str, wanted: UplinkPlan, host: ways.Host) -> Transit:
        """Load the host's rules first, so that the lab is never seen without them."""
        transit = ways.transit_of(host, wanted.link) or choose(
            self._settings.transit, host.taken, namespace
        )
        interfaces = self._interfaces(host)
        own, others = _claims(await nft.chains(_EVERY_ROOT), host, namespace)
        forwarding = await quick(_to_switch_on, interfaces, own | others)
        closed = [self._settings.transit, *self._settings.closed]
        outside = Outside(interfaces=interfaces, forwarding=forwarding, closed=closed)
        await nft.load(host_rules(wanted, transit, outside))
        for name in forwarding:
            await quick(ways.set_forwards, name, wanted=True)
        await quick(_release, own - forwarding - others)
        if wanted.link not in host.links:
            await quick(ways.open_way, namespace, wanted.link, self._group)
        alias = " ".join([lab_mark(namespace), *sorted(forwarding)])
        await quick(ways.set_alias, wanted.link, alias)
        return transit

    async def _map(self, namespace: str, mapped: MappedPlan) -> None:
        mark = lab_mark(namespace)
        await quick(ways.map_network, namespace, mapped, mark, self._group)
        await netns.inside(namespace, lambda: ways.join_network(mapped))

    async def remove(self, namespace: str) -> None:
        """Remove the uplinks of a lab; see the port."""
        if namespace in self._known:
            async with self._turn():
                await self._clear_host(namespace)
            self._known.discard(namespace)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove what belongs to no lab; see the port."""
        kept = set(keep)
        self._known |= kept
        async with self._turn():
            host = await quick(ways.look)
            tables = await nft.chains(f"{_EVERY_ROOT}{self._root_id}_")
            found = {table.replace("_", "-") for table in tables}
            found |= {
                _mark(alias).replace(":", "-")
                for alias in host.links.values()
                if alias.startswith(f"labd:{self._root_id}:")
            }
            gone = sorted(found - kept)
            for namespace in gone:
                await self._clear(namespace)
        return gone

    async def _clear(self, namespace: str) -> None:
        """Remove everything of a lab's uplinks; done again after any crash, it ends the same."""
        await self._clear_host(namespace)
        await self._clear_inside(namespace)
        self._known.discard(namespace)

    async def _clear_host(self, namespace: str) -> None:
        host = await quick(ways.look)
        await self._close_host(namespace, host)
        await quick(ways.delete, sorted(self._links_of(host, namespace)))

    async def _close_host(self, namespace: str, host: ways.Host) -> None:
        """Take back forwarding that nobody else needs, and only then the table that tells of it.

        The way out goes first: it must not be open without its rules.
        """
        tables = await nft.chains(_EVERY_ROOT)
        own, others = _claims(tables, host, namespace)
        await quick(_release, own - others)
        link = link_name(namespace)
        if link in self._links_of(host, namespace):
            await quick(ways.delete, [link])
        if table_name(namespace) in tables:
            await nft.load(no_rules(table_name(namespace)))

    async def _clear_inside(self, namespace: str) -> None:
        if not await quick(netns.exists, namespace):
            return
        if await netns.inside(namespace, self._is_foreign):
            return
        await nft.load(no_rules(LAB_TABLE), namespace=namespace)
        await netns.inside(namespace, lambda: ways.set_routing(wanted=False))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Be the only one on this host that changes uplinks: other roots share its settings."""
        async with self._lock:
            netns.FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(netns.FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                while True:
                    with suppress(BlockingIOError):
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    await asyncio.sleep(_TURN)
                yield
            finally:
                os.close(fd)


def _mark(alias: str) -> str:
    """Return whose an interface is; what labd switched on for it stands behind."""
    return alias.partition(" ")[0]


def _claims(
    tables: Mapping[str, Collection[str]], host: ways.Host, namespace: str
) -> tuple[set[str], set[str]]:
    """Return the interfaces that forward because of this lab, and those because of others."""
    mine: set[str] = set()
    others: set[str] = set()
    for table, chains in tables.items():
        names = {c.removeprefix(FORWARDING) for c in chains if c.startswith(FORWARDING)}
        (mine if table == table_name(namespace) else others).update(names)
    for alias in host.links.values():
        if alias.startswith("labd:"):
            names = set(alias.split(" ")[1:])
            (mine if _mark(alias) == lab_mark(namespace) else others).update(names)
    return mine, others


def _to_switch_on(interfaces: Collection[str], claimed: Collection[str]) -> set[str]:
    """Return the interfaces whose forwarding is labd's doing, or shall be."""
    if ways.forwards_all():
        return set()
    return {name for name in interfaces if name in claimed or not ways.forwards(name)}


def _release(interfaces: Collection[str]) -> None:
    if interfaces and not ways.forwards_all():
        for name in interfaces:
            ways.set_forwards(name, wanted=False)
