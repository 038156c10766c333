"""What nftables shall hold for a lab, as text for `nft -f -`. Pure.

NAT has two steps. In the lab's namespace everything takes the lab's transit address, so that labs
with the same subnets differ from there on; on the host that address takes the host's own. Each text
replaces its whole table in one transaction (nft(8), "atomic rule replacement"), so a lab's rules
are there completely or not at all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from labd.drivers.network.linux.names import WAY_OUT
from labd.model.network import AllowPlan, UplinkPlan

LAB_TABLE: Final = "labd_uplink"  # in the lab's own namespace, so one name does for all
# Chains without rules: each says that labd turned on forwarding of this interface of the host.
# They live and die with the rules that need it, so no crash can part the two.
FORWARDING: Final = "forwarding-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transit:
    """The pair of addresses between a lab and the host, both in one /30."""

    host: ipaddress.IPv4Address
    lab: ipaddress.IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The host as the rules must know it.

    Attributes:
        interfaces: By which labs reach the outside.
        forwarding: Those of them whose forwarding labd turned on.
        closed: Subnets that no lab reaches but by `allow`: transit, and what the administrator
            wrote.
    """

    interfaces: Sequence[str]
    forwarding: Collection[str]
    closed: Sequence[ipaddress.IPv4Network]


def host_rules(plan: UplinkPlan, transit: Transit, outside: Outside) -> str:
    """Return the lab's table on the host.

    What the host does for itself is not touched: every chain looks only at packets from or to the
    lab, and at those that come in where forwarding was off before.
    """
    allows = [_allow_on_host(item, transit) for item in plan.allow]
    interfaces = _names(outside.interfaces)
    closed = ", ".join(str(subnet) for subnet in ipaddress.collapse_addresses(outside.closed))
    chains = [_chain(f"{FORWARDING}{name}", []) for name in sorted(outside.forwarding)]
    chains.append(
        _chain(
            "incoming",  # before DNAT, which may turn a host's address into that of a container
            [
                "type filter hook prerouting priority raw; policy accept;",
                f'iifname != "{plan.link}" accept',
                f"ip saddr != {transit.lab} drop",
                "meta nfproto != ipv4 drop",
                *allows,
                "fib daddr type != unicast drop",
                f"ip daddr {{ {closed} }} drop",
            ],
        )
    )
    chains.append(
        _chain(
            "to-host",
            [
                "type filter hook input priority filter - 10; policy accept;",
                f'iifname != "{plan.link}" accept',
                *allows,
                "drop",
            ],
        )
    )
    chains.append(
        _chain(
            "through",
            [
                "type filter hook forward priority filter - 10; policy accept;",
                f'oifname "{plan.link}" ct state != {{ established, related }} drop',
                *_only_replies(outside.forwarding),
                f'iifname != "{plan.link}" accept',
                *(item for item, plan in zip(allows, plan.allow, strict=True) if plan.to != "host"),
                f"oifname != {interfaces} drop",
            ],
        )
    )
    chains.append(
        _chain(
            "way-out",
            [
                "type nat hook postrouting priority srcnat; policy accept;",
                f'ip saddr {transit.lab} oifname != "{plan.link}" masquerade',
            ],
        )
    )
    return _table(plan.table, chains)


def lab_rules(plan: UplinkPlan, transit: Transit | None) -> str:
    """Return the table in the lab's namespace.

    Args:
        plan: What labd routes.
        transit: None when nothing leaves the lab.
    """
    routed = _names(plan.routed)
    forward = [
        "type filter hook forward priority filter; policy drop;",
        "ct state { established, related } accept",
        f"iifname {routed} oifname {routed} accept",
    ]
    chains = []
    if transit is not None:
        # The host itself is reached by the gateway's address alone, where `allow` says so.
        forward += [
            f'ip daddr {transit.host} oifname "{WAY_OUT}" ct status & dnat == 0 drop',
            f'iifname {_names(plan.nat)} oifname "{WAY_OUT}" accept',
        ]
        chains = [
            _chain(
                "to-labd",
                [
                    "type filter hook input priority filter; policy accept;",
                    f'iifname "{WAY_OUT}" ct state != {{ established, related }} drop',
                ],
            ),
            _chain(
                "to-host",
                [
                    "type nat hook prerouting priority dstnat; policy accept;",
                    *(
                        f'iifname "{item.bridge}" ip daddr {item.gateway} {_ports(item)} '
                        f"dnat ip to {transit.host}"
                        for item in plan.allow
                        if item.to == "host"
                    ),
                ],
            ),
            _chain(
                "way-out",
                [
                    "type nat hook postrouting priority srcnat; policy accept;",
                    f'oifname "{WAY_OUT}" masquerade',
                ],
            ),
        ]
    return _table(LAB_TABLE, [_chain("through", forward), *chains])


def no_rules(table: str) -> str:
    """Return what removes a table, there or not."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def _allow_on_host(item: AllowPlan, transit: Transit) -> str:
    to = str(transit.host) if item.to == "host" else item.to
    return f"ip daddr {to} {_ports(item)} accept"


def _only_replies(forwarding: Collection[str]) -> list[str]:
    """Return rules that keep others from using the host as a router, as before labd."""
    if not forwarding:
        return []
    names = _names(sorted(forwarding))
    return [
        f"meta nfproto ipv4 iifname {names} ct state {{ invalid, untracked }} drop",
        f"meta nfproto ipv4 iifname {names} ct direction original drop",
    ]


def _ports(item: AllowPlan) -> str:
    return f"{item.protocol} dport {{ {', '.join(map(str, item.ports))} }}"


def _names(names: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{name}"' for name in names) + " }"


def _chain(name: str, rules: Sequence[str]) -> str:
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"\tchain {name} {{\n{body}\t}}\n"


def _table(name: str, chains: Iterable[str]) -> str:
    return f"{no_rules(name)}table inet {name} {{\n{''.join(chains)}}}\n"
