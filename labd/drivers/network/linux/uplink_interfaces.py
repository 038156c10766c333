"""Ways out of a lab by netlink: pairs of interfaces, their addresses, and what the host has.

Everything here is synchronous and runs either in the host's namespace, which is the daemon's, or
inside a lab's (`labd.drivers.network.linux.netns`). `/proc/sys/net` follows the calling thread.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from labd.drivers.network.linux import netns
from labd.drivers.network.linux.links import requests
from labd.drivers.network.linux.names import WAY_OUT
from labd.drivers.network.linux.rules import Transit
from labd.drivers.network.linux.transit import of_host
from labd.model.errors import NetworkFailed
from labd.model.network import MappedPlan

_PREFIX = 30
_IPV4 = Path("/proc/sys/net/ipv4")
_FILTERING = Path("/proc/sys/net/bridge")
_UNICAST = 1  # RTN_UNICAST, linux/rtnetlink.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the host's namespace has.

    Attributes:
        links: Interface name -> its alias, empty for none.
        groups: Interface name -> the group that it is in.
        bridges: Names of the bridges.
        taken: Subnets that it has an address in or a route to, less default routes.
        default: Interfaces of the default routes of IPv4, in order.
        addresses: Interface name -> its first IPv4 address.
    """

    links: dict[str, str]
    groups: dict[str, int]
    bridges: frozenset[str]
    taken: tuple[ipaddress.IPv4Network, ...]
    default: tuple[str, ...]
    addresses: dict[str, ipaddress.IPv4Address]


def look() -> Host:
    """Read what the host has."""
    with requests("reading the host's interfaces") as route:
        links = list(route.get_links())
        bridges = list(route.get_links(kind="bridge"))
        addresses = list(route.get_addr(family=AF_INET))
        routes = list(route.get_routes(family=AF_INET))
    names = {link["index"]: str(link.get("ifname")) for link in links}
    taken, default = [], set()
    for entry in routes:
        if entry["dst_len"] == 0:
            if entry["type"] == _UNICAST:
                default |= set(_exits(entry))
        else:
            taken.append(ipaddress.IPv4Network(f"{entry.get('dst')}/{entry['dst_len']}", False))
    found: dict[str, ipaddress.IPv4Address] = {}
    for entry in addresses:
        address = entry.get("local") or entry.get("address")
        taken.append(ipaddress.IPv4Network(f"{address}/{entry['prefixlen']}", strict=False))
        found.setdefault(names.get(entry["index"], ""), ipaddress.IPv4Address(address))
    return Host(
        links={str(link.get("ifname")): str(link.get("ifalias") or "") for link in links},
        groups={str(link.get("ifname")): int(link.get("group") or 0) for link in links},
        bridges=frozenset(str(link.get("ifname")) for link in bridges),
        taken=tuple(taken),
        default=tuple(sorted(names[index] for index in default if index in names)),
        addresses=found,
    )


def _exits(entry: Any) -> Iterator[int]:  # noqa: ANN401 - a message of pyroute2
    """Yield the interfaces of a route, of each hop where it has several."""
    if (index := entry.get("oif")) is not None:
        yield int(index)
    for hop in entry.get("multipath") or ():
        yield int(hop["oif"])


def transit_of(host: Host, link: str) -> Transit | None:
    """Return the addresses of a way out that is there."""
    address = host.addresses.get(link)
    return None if address is None else of_host(address)


def open_way(namespace: str, link: str, group: int) -> None:
    """Make the pair of a lab's way out, both ends down; on the host it says no IPv6."""
    with requests(f"making the way out of {namespace}") as route, _space(namespace) as space:
        peer = {"ifname": WAY_OUT, "net_ns_fd": space}
        route.link("add", ifname=link, kind="veth", group=group, peer=peer)
    write(Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1")
    write(_IPV4 / "conf" / link / "forwarding", "1")


def set_alias(link: str, alias: str) -> None:
    """Write whose an interface is (at most 255 characters, IFALIASZ of linux/if.h)."""
    with requests(f"marking {link}") as route:
        route.link("set", index=route.link_lookup(ifname=link)[0], ifalias=alias)


def raise_outer(link: str, transit: Transit) -> None:
    """Give the host's end its address, and let it work."""
    with requests(f"setting up {link}") as route:
        _set_up(route, link, f"{transit.host}/{_PREFIX}")


def raise_inner(transit: Transit) -> None:
    """Give the lab's end its address and the default route; in the lab's namespace."""
    with requests(f"setting up {WAY_OUT}") as route:
        index = _set_up(route, WAY_OUT, f"{transit.lab}/{_PREFIX}")
        route.route("replace", dst="0.0.0.0/0", gateway=str(transit.host), oif=index)


def _set_up(route: IPRoute, link: str, address: str) -> int:
    index = int(route.link_lookup(ifname=link)[0])
    text, _, length = address.partition("/")
    there = {
        (str(entry.get("address")), int(entry["prefixlen"]))
        for entry in route.get_addr(index=index)
    }
    if there != {(text, int(length))}:
        route.flush_addr(index=index)
        route.addr("add", index=index, address=text, prefixlen=int(length))
    route.link("set", index=index, state="up")
    return index


def map_network(namespace: str, plan: MappedPlan, mark: str, group: int) -> None:
    """Make the pair of a mapped network, its outer end in the host's bridge."""
    with requests(f"mapping network {plan.network}") as route, _space(namespace) as space:
        found = route.link_lookup(ifname=plan.outer)
        if not found:
            peer = {"ifname": plan.inner, "net_ns_fd": space, "mtu": plan.mtu}
            made = {"ifname": plan.outer, "mtu": plan.mtu, "group": group}
            route.link("add", kind="veth", peer=peer, **made)
            found = route.link_lookup(ifname=plan.outer)
            route.link("set", index=found[0], ifalias=mark)
        # Its MAC address and the host's own voice are no part of the physical network.
        write(Path(f"/proc/sys/net/ipv6/conf/{plan.outer}/disable_ipv6"), "1")
        bridge = route.link_lookup(ifname=plan.host_bridge)
        if not bridge:
            raise NetworkFailed(f"network {plan.network}: bridge {plan.host_bridge} has gone")
        route.link("set", index=found[0], master=bridge[0], state="up")


def join_network(plan: MappedPlan) -> None:
    """Put the inner end, or its VLAN, in the lab's bridge; in the lab's namespace."""
    with requests(f"mapping network {plan.network}") as route:
        inner = route.link_lookup(ifname=plan.inner)[0]
        route.link("set", index=inner, state="up")
        port = inner
        if plan.vlan:
            found = route.link_lookup(ifname=plan.tagged)
            if not found:
                route.link("add", ifname=plan.tagged, kind="vlan", link=inner, vlan_id=plan.vlan)
                found = route.link_lookup(ifname=plan.tagged)
            port = found[0]
        bridge = route.link_lookup(ifname=plan.bridge)[0]
        route.link("set", index=port, master=bridge, state="up")


def delete(names: Sequence[str]) -> None:
    """Delete interfaces of the host's namespace; those that have gone are no error."""
    with requests("deleting interfaces") as route:
        for name in names:
            for index in route.link_lookup(ifname=name):
                try:
                    route.link("del", index=index)
                except NetlinkError as error:
                    # The kernel takes a pair away in its own time after the lab's namespace.
                    if error.code != errno.ENODEV:
                        raise


def set_routing(*, wanted: bool) -> None:
    """Switch IPv4 forwarding of a lab's namespace, and keep its bridges out of nftables.

    With br_netfilter loaded, frames within one bridge would meet the rules for routed packets.
    """
    write(_IPV4 / "ip_forward", "1" if wanted else "0")
    for key in ("iptables", "ip6tables", "arptables"):
        path = _FILTERING / f"bridge-nf-call-{key}"
        if path.exists():
            write(path, "0")


def forwards_all() -> bool:
    """True if forwarding is on for the whole host: then it is the administrator's."""
    return read(_IPV4 / "conf" / "all" / "forwarding") == "1"


def forwards(interface: str) -> bool:
    """True if the host forwards what comes in by an interface."""
    return read(_IPV4 / "conf" / interface / "forwarding") == "1"


def set_forwards(interface: str, *, wanted: bool) -> None:
    """Switch forwarding of what comes in by an interface; one that has gone is no error."""
    path = _IPV4 / "conf" / interface / "forwarding"
    if path.exists():
        write(path, "1" if wanted else "0")


def read(path: Path) -> str:
    """Return a setting of the kernel, empty when there is none of that name."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    return ""


def write(path: Path, value: str) -> None:
    """Write a setting of the kernel, unless it has the value already.

    Raises:
        NetworkFailed: The kernel refuses, in a container for instance.
    """
    if read(path) == value or not path.exists():
        return
    try:
        path.write_text(value)
    except OSError as error:
        raise NetworkFailed(
            f"cannot write {value} to {path}: {error.strerror}; allow it to labd, or do it "
            "yourself before",
            errno=error.errno,
        ) from error


@contextmanager
def _space(namespace: str) -> Iterator[int]:
    try:
        fd = os.open(netns.FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkFailed(f"cannot open namespace {namespace}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
