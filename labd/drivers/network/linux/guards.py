"""Which frames a NIC of a guarded network may send, and the rules that hold it to them. Pure.

The rules are of nftables' bridge family and lie in the lab's own namespace, so they see each frame
as it comes out of a tap, before a bridge has learnt anything from it, and end with the namespace.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from labd.drivers.network.linux.shaping import tap_name
from labd.model.network import GuardPlan
from labd.model.slots import numbered
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec, PortSecurity

TABLE: Final = "labd_guard"
_NO_GUARD: Final = f"add table bridge {TABLE}\ndelete table bridge {TABLE}\n"


def plan_guards(spec: LabSpec, node_keys: Mapping[str, str]) -> tuple[GuardPlan, ...]:
    """Return what the NICs of guarded networks may send.

    A router sends packets of others: the gateway, and a node with `forwarding`, are held to their
    MAC address alone.
    """
    networks = {network.name: network for network in spec.networks}
    return tuple(
        _guard(networks[nic.network], node, nic, tap_name(node_keys[node.name], slot))
        for node in spec.nodes
        if node.name in node_keys
        for slot, nic in numbered(node.nics)
        if networks[nic.network].port_security is not PortSecurity.NONE
        and f"{node.name}:{nic.name}" not in networks[nic.network].trusted
    )


def _guard(network: NetworkSpec, node: NodeSpec, nic: NicSpec, tap: str) -> GuardPlan:
    own = [str(ipaddress.ip_interface(text).ip) for text in nic.addresses]
    routes = node.forwarding or network.gateway_address in own
    if network.port_security is PortSecurity.MAC or routes:
        return GuardPlan(tap=tap, mac=nic.mac)
    if nic.dhcp:
        own += _given(network)
    return GuardPlan(
        tap=tap,
        mac=nic.mac,
        strict=True,
        ipv4=tuple(text for text in own if ":" not in text),
        ipv6=tuple(text for text in own if ":" in text),
    )


def _given(network: NetworkSpec) -> Iterator[str]:
    """Yield the addresses that a guest may be given: which of them is known to the server alone."""
    if network.dhcp is not None and network.dhcp.first:
        yield f"{network.dhcp.first}-{network.dhcp.last}"
    elif network.subnet:
        yield network.subnet
    if network.subnet6:
        yield network.subnet6


def guard_rules(guards: Sequence[GuardPlan]) -> str:
    """Return the text for `nft -f -` that replaces the whole table; without guards: removes it."""
    if not guards:
        return _NO_GUARD
    chains = "".join(
        f"\tchain {guard.tap} {{\n" + "".join(f"\t\t{rule}\n" for rule in _rules(guard)) + "\t}\n"
        for guard in guards
    )
    taps = ", ".join(f'"{guard.tap}" : jump {guard.tap}' for guard in guards)
    entry = (
        "\tchain incoming {\n"
        "\t\ttype filter hook prerouting priority -300; policy accept;\n"
        f"\t\tiifname vmap {{ {taps} }}\n\t}}\n"
    )
    return f"{_NO_GUARD}table bridge {TABLE} {{\n{chains}{entry}}}\n"


def _rules(guard: GuardPlan) -> Iterator[str]:
    yield f"ether saddr != {guard.mac} counter drop"
    if not guard.strict:
        yield f"arp saddr ether != {guard.mac} counter drop"
        return
    # The kernel takes the outer tag off; what is in a second one could not be looked at.
    yield "meta protocol { 8021q, 8021ad } counter drop"
    yield f"arp saddr ether != {guard.mac} counter drop"
    yield f"arp saddr ip != {_set('0.0.0.0', *guard.ipv4)} counter drop"
    yield "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"  # who has no address yet (RFC 2131)
    yield (
        f"ip saddr != {_set(*guard.ipv4)} counter drop"
        if guard.ipv4
        else ("meta protocol ip counter drop")
    )
    yield f"ip6 saddr != {_set('::', 'fe80::/10', *guard.ipv6)} counter drop"
    # An advertisement tells of an address in its target (RFC 4861, 4.4), 64 bits behind its type.
    for subnet in map(ipaddress.IPv6Network, ("fe80::/10", *guard.ipv6)):
        bits = int(subnet.network_address) >> (128 - subnet.prefixlen)
        yield f"icmpv6 type nd-neighbor-advert @th,64,{subnet.prefixlen} {bits:#x} accept"
    yield "icmpv6 type nd-neighbor-advert counter drop"


def _set(*items: str) -> str:
    return "{ " + ", ".join(items) + " }"
