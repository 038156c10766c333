"""Addresses and names that labd serves in a lab: what is asked for, planned and found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Addresses of a network for guests without one of their own: what a flood can take of the server's
# memory, and of the database.
MOST_ADDRESSES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpOption:
    """One DHCP option (RFC 2132).

    Attributes:
        number: 1 to 254.
        values: As `model.dhcp_options` took them; each is safe in a line of dnsmasq's.
    """

    number: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSpec:
    """Addresses that labd gives to the guests of a network.

    Attributes:
        first, last: Of the addresses for guests without one of their own; both are given out.
            Empty in a network that has IPv6 only.
        lease: Seconds.
        options: What guests are told besides address, router and name server.
    """

    first: str = ""
    last: str = ""
    lease: int = 3600
    options: tuple[DhcpOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecord:
    """A name that is no node's, and its address."""

    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSpec:
    """Names that labd answers in a network.

    Attributes:
        domain: Nodes are `NODE` and `NODE.domain`; guests search it.
        records: Further names; one without a dot is in the domain.
    """

    domain: str = "lab"
    records: tuple[NameRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """What a lab's dnsmasq reads; the last three are read again by a running one (SIGHUP).

    Attributes:
        config: Without paths, which are arguments.
        hosts: In the form of hosts(5).
        clients: `dhcp-hostsfile`.
        options: `dhcp-optsfile`.
        dhcp: It gives out addresses, and so needs more of the kernel than a name server.
        ipv6: It advertises routers.
    """

    config: str
    hosts: str = ""
    clients: str = ""
    options: str = ""
    dhcp: bool = False
    ipv6: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An address that was given out.

    Attributes:
        address: Without prefix length.
        mac: Six lower-case hex octets; empty where an IPv6 client does not tell it.
        name: That the client got or told; empty for none.
    """

    address: str
    mac: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An address that was seen on a bridge.

    Attributes:
        reachable: The kernel has heard of it within the last half minute or so.
    """

    address: str
    mac: str
    bridge: str
    reachable: bool = False


class ServerState(StrEnum):
    """What happened to a lab's server."""

    LEASES = "leases"  # they may have changed
    ENDED = "ended"  # on its own account; it is started again
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """Something that happened to the server of a namespace.

    Attributes:
        reason: What it said last, or how it ended.
    """

    namespace: str
    state: ServerState
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestInterface:
    """A network interface as the guest itself tells it.

    Attributes:
        addresses: Without prefix length; no loopback and no link-local ones.
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()


class AddressSource(StrEnum):
    """Who says that a node has an address, the most trustworthy first."""

    AGENT = "agent"
    LEASE = "lease"
    NEIGHBOUR = "neighbour"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """An address that a node has.

    Attributes:
        nic: Name in the template; empty for one that only the guest knows.
        address: Without prefix length.
    """

    node: str
    nic: str
    mac: str
    address: str
    source: AddressSource
