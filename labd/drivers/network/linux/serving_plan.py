"""From a lab's spec to what its dnsmasq reads. Pure; see dnsmasq(8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from labd.model.errors import InputError
from labd.model.network import BridgePlan
from labd.model.serving import MOST_ADDRESSES, DhcpSpec, DnsSpec, ServerPlan
from labd.model.specs import Gateway, LabSpec, NetworkSpec

_ROUTER, _DNS, _DOMAIN, _SEARCH = 3, 6, 15, 119
_HEAD: Final = """\
keep-in-foreground
log-facility=-
no-hosts
no-poll
no-ping
bind-interfaces
except-interface=lo
"""
_DHCP: Final = """\
dhcp-authoritative
dhcp-ignore-names=tag:!known
quiet-dhcp
quiet-dhcp6
quiet-ra
"""


def plan_server(
    spec: LabSpec, bridges: Sequence[BridgePlan], resolvers: str = ""
) -> ServerPlan | None:
    """Return what a lab's dnsmasq serves, None when its networks ask for nothing.

    Args:
        spec: The lab.
        bridges: Of its networks.
        resolvers: Path of the host's resolv.conf(5), for names that are not the lab's.

    Raises:
        InputError: A network has no address left for labd itself.
    """
    own = {bridge.network: bridge for bridge in bridges}
    served = [net for net in spec.networks if net.dhcp is not None or net.dns is not None]
    if not served:
        return None
    for network in served:
        _require_address(network, own[network.name])
    dns = [network for network in served if network.dns is not None]
    dhcp = [network for network in served if network.dhcp is not None]
    lines = [*_names(dns, resolvers), *(_interface(net, own[net.name]) for net in served)]
    lines += [f"no-dhcp-interface={own[net.name].bridge}" for net in served if net.dhcp is None]
    if dhcp:
        lines.append(_DHCP + f"dhcp-lease-max={_lease_limit(spec, dhcp, own)}")
        lines += [line for network in dhcp for line in _ranges(network, own[network.name])]
    return ServerPlan(
        config=_HEAD + "".join(f"{line}\n" for line in lines),
        hosts="".join(f"{line}\n" for line in _hosts(spec, dns)),
        clients="".join(f"{line}\n" for line in _clients(spec, dhcp)),
        options="".join(
            f"{line}\n" for network in dhcp for line in _options(network, own[network.name])
        ),
        dhcp=bool(dhcp),
        ipv6=any(own[network.name].address6 for network in dhcp),
    )


def _require_address(network: NetworkSpec, bridge: BridgePlan) -> None:
    if (network.subnet and not bridge.address and ":" not in network.subnet) or not (
        bridge.address or bridge.address6
    ):
        raise InputError(
            f"network {network.name}: labd serves it and has no address left in it; free one, or "
            "write a wider subnet"
        )


def _names(dns: Sequence[NetworkSpec], resolvers: str) -> Iterator[str]:
    if not dns:
        yield "port=0"
        yield "no-resolv"
        return
    # dnsmasq cannot answer some interfaces with more than others: a network without a way out must
    # not reach the outside by names.
    if resolvers and all(network.uplink == "nat" for network in dns):
        yield f"resolv-file={resolvers}"
    else:
        yield "no-resolv"
    # Names without a dot and addresses of no public network are nobody's but the lab's.
    yield "domain-needed"
    yield "bogus-priv"
    yield "localise-queries"
    for domain in sorted({network.dns.domain for network in dns if network.dns}):
        yield f"local=/{domain}/"
    for network in dns:
        if network.dns is None:
            continue
        for subnet in filter(None, (network.subnet, network.subnet6)):
            yield f"domain={network.dns.domain},{subnet}"


def _interface(network: NetworkSpec, bridge: BridgePlan) -> str:
    # The addresses stand here so that another one makes another file, and so another start.
    addresses = " ".join(filter(None, (bridge.address, bridge.address6)))
    return f"# network {network.name}: {addresses}\ninterface={bridge.bridge}"


def _lease_limit(
    spec: LabSpec, dhcp: Sequence[NetworkSpec], bridges: Mapping[str, BridgePlan]
) -> int:
    """Return how many leases there can be: strangers who take all they can leave room for nodes."""
    names = {network.name for network in dhcp}
    limit = 2 * sum(nic.network in names for node in spec.nodes for nic in node.nics)
    for network in dhcp:
        if network.dhcp is not None and network.dhcp.first:
            first, last = map(ipaddress.IPv4Address, (network.dhcp.first, network.dhcp.last))
            limit += int(last) - int(first) + 1
        if bridges[network.name].address6:
            limit += MOST_ADDRESSES
    return limit


def _ranges(network: NetworkSpec, bridge: BridgePlan) -> Iterator[str]:
    dhcp = network.dhcp
    if dhcp is None:
        return
    if bridge.address and dhcp.first:
        mask = ipaddress.ip_interface(bridge.address).netmask
        yield f"dhcp-range=set:{network.name},{dhcp.first},{dhcp.last},{mask},{dhcp.lease}"
    if bridge.address6:
        prefix = ipaddress.ip_interface(bridge.address6).network.network_address
        first, last = prefix + 0x1000, prefix + 0x1000 + MOST_ADDRESSES - 1
        yield "enable-ra"
        yield f"dhcp-range=set:{network.name},{first},{last},slaac,64,{dhcp.lease}"
        # labd routes no IPv6: it tells the prefix, and is nobody's default router.
        yield f"ra-param={bridge.bridge},0,0"


def _hosts(spec: LabSpec, dns: Sequence[NetworkSpec]) -> Iterator[str]:
    """Yield each address with its names, the whole one first: that is what it resolves back to."""
    domains = {network.name: network.dns.domain for network in dns if network.dns}
    if not domains:
        return
    default = next(iter(domains.values()))
    for node in spec.nodes:
        for nic in node.nics:
            domain = domains.get(nic.network, default)
            for text in nic.addresses:
                yield f"{text.partition('/')[0]} {node.name}.{domain} {node.name}"
    for network in dns:
        for record in network.dns.records if network.dns else ():
            names = _record_names(record.name, domains[network.name])
            yield f"{record.address} {names}"


def _record_names(name: str, domain: str) -> str:
    return name if "." in name else f"{name}.{domain} {name}"


def _clients(spec: LabSpec, dhcp: Sequence[NetworkSpec]) -> Iterator[str]:
    """Yield each NIC with its fixed address and name; a name is given to one address only."""
    names = {network.name for network in dhcp}
    for node in spec.nodes:
        first = True
        for nic in node.nics:
            if nic.network not in names:
                continue
            addresses = [_bracketed(text) for text in nic.addresses]
            name = node.name if first else f"{node.name}-{nic.name}"
            first = False
            yield ",".join([nic.mac, *addresses, name])


def _bracketed(text: str) -> str:
    address = text.partition("/")[0]
    return f"[{address}]" if ":" in address else address


def _options(network: NetworkSpec, bridge: BridgePlan) -> Iterator[str]:
    """Yield what guests of a network are told; a template's own word comes before labd's."""
    if network.dhcp is None:
        return
    told = _defaults(network, bridge.address, network.dhcp, network.dns)
    for number, values in sorted(told.items()):
        yield ",".join([f"tag:{network.name}", str(number), *values])
    if bridge.address6:
        server = f"[{bridge.address6.partition('/')[0]}]" if network.dns is not None else ""
        yield ",".join(filter(None, [f"tag:{network.name}", "option6:dns-server", server]))
        if network.dns is not None:
            yield f"tag:{network.name},option6:domain-search,{network.dns.domain}"


def _defaults(
    network: NetworkSpec, own: str, dhcp: DhcpSpec, dns: DnsSpec | None
) -> Mapping[int, Sequence[str]]:
    # An option without a value is not sent: dnsmasq would name itself as router and server.
    gateway = network.gateway_address if network.gateway is not Gateway.NONE else ""
    told: dict[int, Sequence[str]] = {_ROUTER: [gateway] if gateway else []}
    told[_DNS] = [own.partition("/")[0]] if dns is not None and own else []
    if dns is not None:
        told[_DOMAIN] = [f'"{dns.domain}"']
        told[_SEARCH] = [dns.domain]
    told.update({option.number: option.values for option in dhcp.options})
    return told
