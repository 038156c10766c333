"""What the network adapter is given to build, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.links import ShapePlan
from labd.model.serving import ServerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """A tap on a bridge.

    Attributes:
        key: The machine's key.
        nic: `Nic.id` of the machine.
        tap: Interface name in the lab's namespace, at most 15 characters.
        bridge: Interface name of the bridge it is put in.
        mtu: Bytes.
    """

    key: str
    nic: str
    tap: str
    bridge: str
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePlan:
    """One layer-2 segment.

    Attributes:
        network: Name in the lab.
        bridge: Interface name, at most 15 characters.
        address: labd's own address in it with prefix length, from which it probes TCP ports;
            empty for none.
        address6: labd's own IPv6 address in it, where it serves IPv6; empty for none.
        wire: It is a link, and passes on what bridges keep to themselves (LLDP, LACP).
    """

    network: str
    bridge: str
    mtu: int = 1500
    address: str = ""
    address6: str = ""
    wire: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowPlan:
    """What guests of some bridge may reach of the host.

    Attributes:
        bridge: Interface name of the guests' bridge.
        gateway: labd's address in it; where `to` is `host`, it stands for the host there.
        to: `host` or an IPv4 CIDR.
        protocol: `tcp` or `udp`.
        ports: Of the destination, ascending.
    """

    bridge: str
    gateway: str
    to: str
    protocol: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPlan:
    """A lab's network that is part of a bridge of the host, by a pair of interfaces.

    Attributes:
        network: Name in the lab.
        bridge: The lab's.
        host_bridge: The host's.
        outer: Interface name of the end in the host's bridge.
        inner: Interface name of the end in the lab's namespace.
        vlan: Tag on the host's bridge; 0 for none.
        tagged: Interface name of the VLAN device on `inner`.
        mtu: Bytes.
    """

    network: str
    bridge: str
    host_bridge: str
    outer: str
    inner: str
    vlan: int = 0
    tagged: str = ""
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkPlan:
    """What leaves a lab's networks, and what labd routes between them.

    Attributes:
        table: Name of the lab's nftables table on the host.
        link: Interface name of the host's end of the way out.
        routed: Bridges of the networks whose gateway is labd; it routes between them.
        nat: Those of them that reach the outside.
        allow: What they may reach of the host.
        mapped: Networks on bridges of the host.
    """

    table: str
    link: str
    routed: tuple[str, ...] = ()
    nat: tuple[str, ...] = ()
    allow: tuple[AllowPlan, ...] = ()
    mapped: tuple[MappedPlan, ...] = ()

    @property
    def routes(self) -> bool:
        """Whether labd forwards anything for the lab."""
        return bool(self.nat) or len(self.routed) > 1

    @property
    def empty(self) -> bool:
        """Whether there is nothing to build."""
        return not self.routes and not self.mapped


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPlan:
    """What may come out of a tap.

    Attributes:
        tap: Interface name.
        mac: The only source of its frames.
        strict: Its packets come from these addresses only.
        ipv4: Addresses, subnets and ranges (`first-last`).
        ipv6: Addresses and subnets, besides those of the link.
    """

    tap: str
    mac: str
    strict: bool = False
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNetworkPlan:
    """Everything of one lab below layer 3.

    Attributes:
        namespace: Name under `/run/netns`, `labd-<root id>-<lab key>`.
        uplinks: How its networks leave it; None when none does and labd routes nothing.
        server: What its dnsmasq serves; None when it has none.
        shapes: Impairments of its links.
        guards: Taps that may not send everything.
    """

    namespace: str
    bridges: tuple[BridgePlan, ...] = ()
    ports: tuple[PortPlan, ...] = ()
    uplinks: UplinkPlan | None = None
    server: ServerPlan | None = None
    shapes: tuple[ShapePlan, ...] = ()
    guards: tuple[GuardPlan, ...] = ()
