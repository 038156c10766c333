"""From a lab's spec to its bridges and taps. Pure.

Interface names follow from names and keys alone, so that an edit of a template renames nothing that
stays. All of them lie in the lab's own namespace, where no other lab has a say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from labd.drivers.network.linux.guards import plan_guards
from labd.drivers.network.linux.names import bridge_name, namespace_name
from labd.drivers.network.linux.serving_plan import plan_server
from labd.drivers.network.linux.shaping import plan_shapes, tap_name
from labd.drivers.network.linux.uplinks_plan import plan_uplinks
from labd.model.network import BridgePlan, LabNetworkPlan, PortPlan
from labd.model.slots import numbered
from labd.model.specs import Gateway, LabSpec, NetworkSpec


def plan(
    spec: LabSpec,
    lab_key: str,
    root_id: str,
    node_keys: Mapping[str, str],
    *,
    resolvers: str = "",
) -> LabNetworkPlan:
    """Return the network plan of a lab.

    Args:
        spec: What the lab shall be.
        lab_key: Names the namespace.
        root_id: Names the namespace.
        node_keys: Node name -> machine key; nodes without one get no ports.
        resolvers: Path of the host's resolv.conf(5), for names outside of labs with a way out.

    Raises:
        InputError: A network that labd serves has no address left for it.

    """
    used = _addresses(spec)
    bridges = [
        BridgePlan(
            network=network.name,
            bridge=bridge_name(network.name),
            mtu=network.mtu,
            address=own_address(network, used.get(network.name, set())),
            address6=own_address6(network, used.get(network.name, set())),
            wire=network.link,
        )
        for network in spec.networks
    ]
    mtus = {network.name: network.mtu for network in spec.networks}
    ports = [
        PortPlan(
            key=node_keys[node.name],
            nic=f"n{slot}",
            tap=tap_name(node_keys[node.name], slot),
            bridge=bridge_name(nic.network),
            mtu=mtus[nic.network],
        )
        for node in spec.nodes
        if node.name in node_keys
        for slot, nic in numbered(node.nics)
    ]
    return LabNetworkPlan(
        namespace=namespace_name(root_id, lab_key),
        bridges=tuple(bridges),
        ports=tuple(ports),
        shapes=plan_shapes(spec, node_keys),
        uplinks=plan_uplinks(spec, lab_key, root_id),
        server=plan_server(spec, bridges, resolvers),
        guards=plan_guards(spec, node_keys),
    )


def _addresses(spec: LabSpec) -> dict[str, set[str]]:
    """Return network name -> the addresses (`a.b.c.d/len`) of the NICs in it."""
    found: dict[str, set[str]] = {}
    for node in spec.nodes:
        for nic in node.nics:
            found.setdefault(nic.network, set()).update(nic.addresses)
            if nic.gateway:
                found[nic.network].add(nic.gateway)
    return found


def own_address(network: NetworkSpec, used: set[str]) -> str:
    """Return labd's own address in a network, from which it probes ports; empty when none is known.

    Where labd is the gateway it is that address, else the highest IPv4 host address of the subnet
    that no NIC has. A network without a subnet of its own has that of the first address in it.
    In a network on a bridge of the host labd has none, unless it is the gateway.
    """
    if network.gateway is not Gateway.LABD and network.uplink.startswith("bridge:"):
        return ""  # the rest of that network is not labd's to know
    if network.gateway is Gateway.LABD:
        length = ipaddress.ip_network(network.subnet).prefixlen
        return f"{network.gateway_address}/{length}"
    taken = {ipaddress.ip_interface(address).ip for address in used}
    texts = [network.subnet] if network.subnet else sorted(a for a in used if "/" in a)
    for text in texts:
        subnet = ipaddress.ip_interface(text).network
        if isinstance(subnet, ipaddress.IPv6Network):
            continue
        # A /31 or /32 has no host to spare.
        for value in range(int(subnet.broadcast_address) - 1, int(subnet.network_address), -1):
            address = ipaddress.IPv4Address(value)
            if address not in taken:
                return f"{address}/{subnet.prefixlen}"
        return ""
    return ""


def own_address6(network: NetworkSpec, used: set[str]) -> str:
    """Return labd's own IPv6 address in a network that it serves, empty elsewhere."""
    text = network.subnet6 or (network.subnet if ":" in network.subnet else "")
    if not text or (network.dhcp is None and network.dns is None):
        return ""
    subnet = ipaddress.IPv6Network(text)
    taken = {ipaddress.ip_interface(address).ip for address in used}
    room = range(min(0xFFFE, subnet.num_addresses - 2), 0, -1)
    free = (subnet[value] for value in room if subnet[value] not in taken)
    address = next(free, None)
    return f"{address}/{subnet.prefixlen}" if address is not None else ""
