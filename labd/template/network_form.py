"""The shape of networks and links in templates; see `keys` for how a key is declared."""

from __future__ import annotations

from labd.model.specs import Gateway, PortSecurity
from labd.template.keys import Effect, Form, key
from labd.template.link_form import ImpairForm, LinkState
from labd.template.values import MAX_ENTRIES, Duration, OrServed, Port, Text, Values, Whole


class AllowForm(Form):
    """What guests behind NAT may reach although it is the host's."""

    to: Text = key("host, or an IPv4 address or subnet, like 192.0.2.10")
    tcp: list[Port] = key("TCP ports", default_factory=list, max_length=MAX_ENTRIES)
    udp: list[Port] = key("UDP ports", default_factory=list, max_length=MAX_ENTRIES)


class DhcpForm(Form):
    """Addresses that labd gives to guests."""

    range: list[Text] = key(
        "First and last address for guests without one of their own; left out: the "
        "upper half of the subnet",
        default_factory=list,
        max_length=2,
        shown="the upper half of the subnet, as far as that is allowed",
        more="1,000 addresses at most",
    )
    lease: Duration = key(
        "How long an address is given, like 1h", default=3600.0, shown="`1h`", more="2m to 30d"
    )
    options: Values = key(
        "DHCP options by name or number, like ntp-server",
        default_factory=dict,
        more="the names are dnsmasq's, numbers are in quotes; a text, a number, or addresses; "
        "`router`, `dns-server` and `domain-name` replace what labd says",
    )


class DnsForm(Form):
    """Names that labd answers."""

    domain: Text = key(
        "Nodes are NODE and NODE.DOMAIN in it", default="lab", more="guests search it"
    )
    records: Values = key(
        "Further names and their addresses",
        default_factory=dict,
        more="one without a dot is in the domain",
    )


class NetworkForm(Form):
    """One layer-2 segment."""

    subnet: Text = key(
        "CIDR, like 10.0.1.0/24; addresses are checked against it",
        effect=Effect.RESTART,
        default="",
        more="subnets of a lab do not overlap",
    )
    subnet6: Text = key("A second subnet, IPv6, like fd00:1::/64", effect=Effect.NONE, default="")
    dhcp: OrServed[DhcpForm] = key(
        "Have labd give out addresses: true, or how",
        effect=Effect.NONE,
        default=None,
        shown="`false`",
        more="see [below](#addresses-and-names)",
    )
    dns: OrServed[DnsForm] = key(
        "Have labd answer names of nodes: true, or how",
        effect=Effect.NONE,
        default=None,
        shown="`false`",
        more="see [below](#addresses-and-names)",
    )
    uplink: Text = key(
        "How it leaves the lab: none, nat or bridge:INTERFACE",
        effect=Effect.NONE,
        default="none",
        more="see [Networks](networks.md)",
    )
    vlan: Whole = key(
        "802.1Q tag on the uplink bridge; 0: untagged",
        effect=Effect.NONE,
        default=0,
        ge=0,
        le=4094,
    )
    allow: list[AllowForm] = key(
        "What guests may reach of the host with uplink nat; left out: nothing",
        effect=Effect.NONE,
        default_factory=list,
        max_length=MAX_ENTRIES,
        shown="nothing",
        more="`[{to: host, tcp: [8080]}, {to: 192.0.2.7, udp: [53]}]`",
    )
    mtu: Whole = key("Bytes", effect=Effect.RESTART, default=1500, ge=576, le=9216)
    gateway: Gateway | None = key(
        "Who routes it: labd, node or none; left out: labd with uplink nat, else none",
        effect=Effect.NONE,
        default=None,
        shown="`none`, or `labd` with `uplink: nat`",
        more="see below",
    )
    gateway_address: Text = key(
        "Of the gateway; left out: the first host address of the subnet",
        effect=Effect.NONE,
        default="",
        shown="the first host address of the subnet",
    )
    port_security: PortSecurity = key(
        "What NICs are held to: none, mac, or address, which is MAC and IP addresses",
        effect=Effect.NONE,
        default=PortSecurity.NONE,
        more="see [Networks](networks.md#forged-addresses-port_security)",
    )
    trusted: list[Text] = key(
        "NICs that port_security lets send anything, each NODE:NIC",
        effect=Effect.NONE,
        default_factory=list,
        max_length=MAX_ENTRIES,
    )


class LinkForm(NetworkForm):
    """A network with exactly two ends. A NIC that a node does not have yet is added to it."""

    ends: list[Text] = key(
        "The two ends, each NODE:NIC, like router:eth1",
        effect=Effect.RESTART,
        json_schema_extra={"minItems": 2, "maxItems": 2},
    )
    impair: ImpairForm | None = key(
        "What happens to frames, both ways; `lab link set` changes it",
        effect=Effect.LIVE,
        default=None,
        shown="nothing",
        more="see [Networks](networks.md#state-of-links)",
    )
    state: LinkState | None = key(
        "up, or down: both ends have no carrier; left out: up",
        effect=Effect.LIVE,
        default=None,
        shown="`up`",
    )
