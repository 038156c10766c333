"""Who routes a network: labd, one of its nodes, or nobody; and the default routes that follow."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from labd.model.specs import Gateway, NetworkSpec, NicSpec, NodeSpec
from labd.template.addresses import Address, Addressing, no_host, read_address
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import LabForm
from labd.template.network_form import NetworkForm


@dataclass
class Gateways:
    """Checks `gateway` and `gateway_address` of networks, and gives NICs what follows."""

    addressing: Addressing
    complaints: Complaints

    def network(
        self, where: str, name: str, form: NetworkForm, path: Path, *, link: bool
    ) -> tuple[Gateway, str]:
        """Return who routes a network, and the address; its subnet has been read before."""
        gateway = form.gateway
        if gateway is None:
            gateway = Gateway.LABD if form.uplink == "nat" and not link else Gateway.NONE
        at: Path = (*path, "gateway") if form.gateway is not None else path
        if form.uplink == "nat" and not link and gateway is not Gateway.LABD:
            self.complaints.wrong(
                f"{where}: uplink nat needs gateway: labd, which routes it; leave gateway out", at
            )
        if gateway is Gateway.NONE:
            if form.gateway_address:
                self.complaints.wrong(
                    f"{where}: gateway_address needs gateway: labd or gateway: node",
                    (*path, "gateway_address"),
                )
            return gateway, ""
        if link and gateway is Gateway.LABD:
            self.complaints.wrong(
                f"{where}: its ends are two nodes, so labd is no gateway in it; use a network", at
            )
            return gateway, ""
        return gateway, self._address(where, name, form, gateway, path)

    def _address(
        self, where: str, name: str, form: NetworkForm, gateway: Gateway, path: Path
    ) -> str:
        subnet = self.addressing.subnets.get(name)
        if subnet is None:
            if not form.subnet:  # a wrong one has been told already
                why = "uplink: nat" if form.gateway is None else f"gateway: {gateway}"
                self.complaints.wrong(
                    f"{where}: {why} needs a subnet; write one, like subnet: 10.0.1.0/24", path
                )
            return ""
        at: Path = (*path, "gateway_address") if form.gateway_address else path
        if gateway is Gateway.LABD and subnet.version != 4:
            self.complaints.wrong(
                f"{where}: gateway: labd routes IPv4, and {subnet} is IPv6; write gateway: node", at
            )
            return ""
        text = form.gateway_address
        first = ipaddress.ip_address(str(next(iter(subnet.hosts()))))
        address = read_address(text) if text else first
        if address is None:
            self.complaints.wrong(
                f"{where}: gateway_address '{text[:64]}' is no address; write it like {first}",
                at,
            )
            return ""
        problem = no_host(address, subnet)
        if address not in subnet:
            problem = f"{address} is not in the subnet {subnet}"
        if problem:
            self.complaints.wrong(f"{where}: gateway_address: {problem}; choose another", at)
            return ""
        if gateway is Gateway.LABD:
            self.addressing.addresses[name, address] = f"labd, the gateway of {where}"
        return str(address)

    def nodes(
        self, form: LabForm, networks: Sequence[NetworkSpec], nodes: Sequence[NodeSpec]
    ) -> tuple[NodeSpec, ...]:
        """Return the nodes with the default routes that their networks give them.

        A network whose gateway is a node must have one with that address.
        """
        for network in networks:
            if network.gateway is Gateway.NODE and network.gateway_address:
                self._require_node(network)
        by_name = {network.name: network for network in networks}
        return tuple(_routed(node, form, by_name) for node in nodes)

    def _require_node(self, network: NetworkSpec) -> None:
        address = ipaddress.ip_address(network.gateway_address)
        if (network.name, address) in self.addressing.addresses:
            return
        section = "links" if network.link else "networks"
        self.complaints.wrong(
            f"{section[:-1]} {network.name}: gateway: node, and no nic in it has {address}; give "
            "one that address, or write another as gateway_address",
            (section, network.name, "gateway"),
        )


def _routed(node: NodeSpec, form: LabForm, networks: Mapping[str, NetworkSpec]) -> NodeSpec:
    """Give a node at most one default route of each IP version, over its first NIC that may."""
    taken = {ipaddress.ip_address(nic.gateway).version for nic in node.nics if _is(nic.gateway)}
    taken |= {
        ipaddress.ip_address(route.via).version for route in node.routes if route.to == "default"
    }
    nics = []
    for nic in node.nics:
        network = networks.get(nic.network)
        if network is not None and form.nodes[node.name].nics[nic.name].gateway == "":
            address = _default(nic, network)
            if address is not None and address.version not in taken:
                taken.add(address.version)
                nic = replace(nic, gateway=str(address))  # noqa: PLW2901
        nics.append(nic)
    return replace(node, nics=tuple(nics))


def _is(text: str) -> bool:
    return read_address(text) is not None


def _default(nic: NicSpec, network: NetworkSpec) -> Address | None:
    """Return the gateway of a NIC's network, unless the NIC is it or has no address for it."""
    if not network.gateway_address:
        return None
    gateway = ipaddress.ip_address(network.gateway_address)
    own = [ipaddress.ip_interface(address) for address in nic.addresses]
    if any(interface.ip == gateway for interface in own):
        return None
    return gateway if any(gateway in interface.network for interface in own) else None
