"""Bridges and taps by netlink: the only user of pyroute2. Everything here runs inside a namespace.

A short `IPRoute` per batch: a long-lived socket keeps every message that it ever got.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from labd.host.failpoints import failpoints
from labd.model.errors import NetworkFailed
from labd.model.network import BridgePlan, PortPlan

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
# A tap without a carrier loses nothing: it is up as soon as QEMU reads it.
_FORWARD_DELAY = 0
# All frames of 01-80-c2-00-00-0X but those that the kernel keeps to itself (BR_GROUPFWD_RESTRICTED,
# net/bridge/br_private.h: spanning tree and pause, which no wire shows to both ends either way).
_FORWARD_ALL = 0xFFF8
_LOOPBACK = 1  # index of lo in every namespace (LOOPBACK_IFINDEX, include/net/flow.h)
# What the kernel puts in each namespace that is made while these modules are loaded
# (Documentation/admin-guide/sysctl/net.rst, fb_tunnels_only_for_init_net).
_KERNELS_OWN = frozenset(
    {"lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0"}
    | {"ip6gre0", "ip6gretap0"}
)
# Of the taps of a lab, which are alone in its namespace: they can be deleted in one go.
_TAPS = 0x7A7


@contextmanager
def requests(what: str) -> Iterator[IPRoute]:
    """Yield a netlink socket of this namespace; errors tell what was being done."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        name = errno.errorcode.get(error.code, str(error.code))
        raise NetworkFailed(f"{what}: the kernel says {name}", errno=error.code) from error
    except OSError as error:
        raise NetworkFailed(f"{what}: {error.strerror}", errno=error.errno) from error


def prepare_namespace(mark: str) -> None:
    """Mark a fresh namespace as labd's, and keep its own side quiet.

    IPv6 of the guests passes the bridges; labd's side neither configures itself nor speaks it.
    """
    for key in ("default", "all"):
        path = Path(f"/proc/sys/net/ipv6/conf/{key}/disable_ipv6")
        if path.exists():
            path.write_text("1")
    with requests("marking the namespace") as route:
        route.link("set", index=_LOOPBACK, ifalias=mark, state="up")


def mark_namespace(mark: str) -> None:
    """Mark a namespace anew."""
    with requests("marking the namespace") as route:
        route.link("set", index=_LOOPBACK, ifalias=mark)


def mark_of_namespace() -> str:
    """Return the mark that `prepare_namespace` left, empty for none."""
    with requests("reading the namespace's mark") as route:
        for link in route.link("get", ifname="lo"):
            return str(link.get("ifalias") or "")
    return ""


def is_foreign(mark: str) -> bool:
    """True if this namespace is another's than the one's who marks with `mark`.

    One without a mark was made by a daemon that died before it could mark it, or by somebody else:
    only an untouched one can be ours.
    """
    with requests("reading the namespace's mark") as route:
        for link in route.link("get", ifname="lo"):
            alias = str(link.get("ifalias") or "")
            if alias or link["state"] == "up":
                return alias.partition(" ")[0] != mark
        return any(str(link.get("ifname")) not in _KERNELS_OWN for link in route.get_links())


def bridge_indexes() -> dict[str, int]:
    """Return name -> index of the bridges in this namespace; one that is made anew has another."""
    with requests("listing bridges") as route:
        found = route.get_links(kind="bridge")
        return {str(link.get("ifname")): int(link["index"]) for link in found}


def bridge_names() -> list[str]:
    """Return the names of the bridges in this namespace."""
    with requests("listing bridges") as route:
        return sorted(str(link.get("ifname")) for link in route.get_links(kind="bridge"))


def apply_bridges(plans: Sequence[BridgePlan], mark: str) -> None:
    """Make what is missing and remove what is not planned; the rest is set as planned.

    Raises:
        NetworkFailed: Bridges that this call made are removed again.
    """
    wanted = {plan.bridge: plan for plan in plans}
    with requests("making bridges") as route, ExitStack() as undo:
        there = {str(link.get("ifname")): link["index"] for link in route.get_links(kind="bridge")}
        for name in sorted(there.keys() - wanted.keys()):
            route.link("del", index=there[name])
        for name, plan in wanted.items():
            if name not in there:
                _make_bridge(route, plan, mark)
                undo.callback(route.link, "del", ifname=name)
            else:
                route.link("set", index=there[name], mtu=plan.mtu)
        # Those that were there had one when their networks had a gateway, a server, or no uplink to
        # the host's.
        addresses = {
            name: {address for address in (plan.address, plan.address6) if address}
            for name, plan in wanted.items()
        }
        touched = {name: found for name, found in addresses.items() if found or name in there}
        for name in touched:
            _speak(name, ipv6=bool(wanted[name].address6))
        _set_addresses(route, touched)
        undo.pop_all()


def _make_bridge(route: IPRoute, plan: BridgePlan, mark: str) -> None:
    route.link(
        "add",
        ifname=plan.bridge,
        kind="bridge",
        mtu=plan.mtu,
        state="up",
        br_stp_state=0,
        br_forward_delay=_FORWARD_DELAY,
        br_mcast_snooping=0,
        **({"br_group_fwd_mask": _FORWARD_ALL} if plan.wire else {}),
    )
    # An alias given at its making is not taken (rtnl_create_link, net/core/rtnetlink.c).
    route.link("set", ifname=plan.bridge, ifalias=mark)


def _speak(bridge: str, *, ipv6: bool) -> None:
    """Let labd's side speak IPv6 on a bridge or not; what guests advertise is not for it."""
    folder = Path("/proc/sys/net/ipv6/conf") / bridge
    if not folder.exists():
        if ipv6:
            raise NetworkFailed(f"bridge {bridge}: the kernel has no IPv6 (CONFIG_IPV6)")
        return
    # Addresses of labd are unique in their subnet: dnsmasq need not wait until that is found out.
    for key in ("accept_ra", "autoconf", "accept_dad"):
        (folder / key).write_text("0")
    (folder / "disable_ipv6").write_text("0" if ipv6 else "1")


def _set_addresses(route: IPRoute, wanted: Mapping[str, set[str]]) -> None:
    """Give bridges exactly the addresses that are wanted, with two looks at what there is."""
    if not wanted:
        return
    indexes = {str(link.get("ifname")): int(link["index"]) for link in route.get_links()}
    there: dict[int, set[str]] = {}
    for entry in route.get_addr():
        if not str(entry.get("address")).startswith("fe80:"):
            text = f"{entry.get('address')}/{entry['prefixlen']}"
            there.setdefault(int(entry["index"]), set()).add(text)
    for name, addresses in wanted.items():
        index = indexes[name]
        has = there.get(index, set())
        for verb, texts in (("del", has - addresses), ("add", addresses - has)):
            for text in sorted(texts):
                address, _, length = text.partition("/")
                route.addr(verb, index=index, address=address, prefixlen=int(length))


def delete_taps() -> None:
    """Delete all taps of this namespace in one go (RTM_DELLINK with IFLA_GROUP)."""
    with requests("deleting taps") as route:
        try:
            route.link("del", group=_TAPS)
        except NetlinkError as error:
            if error.code != errno.ENODEV:  # there is none
                raise


def open_taps(plans: Sequence[PortPlan]) -> dict[tuple[str, str], int]:
    """Make taps, put them in their bridges and return (machine key, NIC id) -> descriptor.

    They are not persistent: a tap is gone with its last descriptor.

    Raises:
        NetworkFailed: No tap is left.
    """
    with ExitStack() as undo:
        found = {}
        for plan in plans:
            fd = _open_tap(plan.tap)
            undo.callback(os.close, fd)
            found[plan.key, plan.nic] = fd
        failpoints.reach_sync("network.taps-made")
        if plans:
            with requests("putting taps in bridges") as route:
                bridges: dict[str, int] = {}
                for plan in plans:
                    if plan.bridge not in bridges:
                        bridges[plan.bridge] = _index(plan, "bridge", plan.bridge)
                    route.link(
                        "set",
                        index=_index(plan, "interface", plan.tap),
                        master=bridges[plan.bridge],
                        mtu=plan.mtu,
                        group=_TAPS,
                        state="up",
                    )
        undo.pop_all()
    return found


def _index(plan: PortPlan, kind: str, name: str) -> int:
    """Return an interface's index by ioctl: netlink's answers on many take long to read."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # without a number (socketmodule.c), and there is one reason only
        raise NetworkFailed(
            f"tap {plan.tap}: there is no {kind} {name}", errno=errno.ENODEV
        ) from error


def _open_tap(name: str) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkFailed(
            f"cannot open /dev/net/tun: {error.strerror}; `lab doctor` tells how to mend it",
            errno=error.errno,
        ) from error
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise NetworkFailed(
            f"cannot make tap {name}: {error.strerror}", errno=error.errno
        ) from error
    return fd
