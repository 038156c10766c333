"""Subnets, addresses, MAC addresses and routes: whether they fit, each other too."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from labd.model.names import stable_mac
from labd.model.specs import RouteSpec
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import NodeForm
from labd.template.network_form import NetworkForm
from labd.template.node_parts import NicForm

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

MAC: Final = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
BY_DHCP: Final = "dhcp"  # of a NIC instead of an address
NO_GATEWAY: Final = "none"  # of a NIC: no default route over it, whatever its network says
_WIDEST: Final = 8  # a wider subnet is a mistake; own_address walks through it, too


@dataclass
class Addressing:
    """What is taken in a lab so far.

    Attributes:
        subnets: Network name -> its subnet.
        subnets6: Network name -> its second one, IPv6.
        addresses: (network name, address) -> whose it is.
        macs: MAC address -> whose it is.
    """

    template: str
    complaints: Complaints
    subnets: dict[str, Subnet] = field(default_factory=dict)
    subnets6: dict[str, Subnet] = field(default_factory=dict)
    addresses: dict[tuple[str, Address], str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)

    def subnet(self, where: str, name: str, form: NetworkForm, path: Path) -> str:
        """Check and keep a network's subnet; return it, or nothing."""
        subnet = self._subnet(where, form.subnet, (*path, "subnet"))
        if subnet is None:
            return ""
        self.subnets[name] = subnet
        return str(subnet)

    def subnet6(self, where: str, name: str, form: NetworkForm, path: Path) -> str:
        """Check and keep a network's second subnet, after its first; return it, or nothing."""
        at: Path = (*path, "subnet6")
        subnet = self._subnet(where, form.subnet6, at)
        if subnet is None:
            return ""
        first = self.subnets.get(name)
        if subnet.version != 6:
            self.complaints.wrong(f"{where}: subnet6 is IPv6, like fd00:1::/64; not {subnet}", at)
            return ""
        if first is not None and first.version == 6:
            self.complaints.wrong(f"{where}: subnet is IPv6 already; leave subnet6 out", at)
            return ""
        self.subnets6[name] = subnet
        return str(subnet)

    def _subnet(self, where: str, text: str, path: Path) -> Subnet | None:
        if not text:
            return None
        subnet, problem = _read_subnet(text)
        if subnet is None:
            self.complaints.wrong(f"{where}: {problem}", path)
            return None
        if subnet.prefixlen < _WIDEST or subnet.is_loopback or subnet.is_multicast:
            self.complaints.wrong(
                f"{where}: {subnet} is no subnet for a lab; write one like 10.0.1.0/24", path
            )
            return None
        for other, taken in [*self.subnets.items(), *self.subnets6.items()]:
            if taken.version == subnet.version and taken.overlaps(subnet):
                self.complaints.wrong(
                    f"{where}: subnet {subnet} overlaps {taken} of network {other}", path
                )
        return subnet

    def of_version(self, network: str, version: int) -> Subnet | None:
        """Return the subnet of an IP version that a network has."""
        both = (self.subnets.get(network), self.subnets6.get(network))
        return next((s for s in both if s is not None and s.version == version), None)

    def nic(self, node: str, name: str, form: NicForm, path: Path) -> tuple[list[Interface], str]:
        """Return the addresses and the gateway of a NIC."""
        where = f"node {node}, nic {name}"
        if form.address and form.addresses:
            self.complaints.wrong(f"{where}: write address or addresses, not both", path, key=True)
        places: list[tuple[str, Path]] = [
            (text, (*path, "addresses", index)) for index, text in enumerate(form.addresses)
        ]
        if form.address == BY_DHCP:
            places = []
        elif form.address:
            places = [(form.address, (*path, "address"))]
        found = []
        for text, place in places:
            interface = _read_interface(text)
            if interface is None:
                self.complaints.wrong(
                    f"{where}: '{text[:64]}' is no address with prefix length; write it like "
                    "10.0.1.10/24",
                    place,
                )
            else:
                self._check_interface(where, interface, form.network or "", place)
                found.append(interface)
        return found, self._gateway(where, form, found, (*path, "gateway"))

    def _check_interface(self, where: str, interface: Interface, network: str, path: Path) -> None:
        subnet = self.of_version(network, interface.version)
        if subnet is not None:
            if interface.ip not in subnet:
                self.complaints.wrong(
                    f"{where}: {interface.ip} is not in {subnet}, the subnet of network {network}",
                    path,
                )
                return
            if interface.network != subnet:
                self.complaints.wrong(
                    f"{where}: network {network} has prefix length {subnet.prefixlen}; write "
                    f"{interface.ip}/{subnet.prefixlen}",
                    path,
                )
                return
        if problem := no_host(interface.ip, interface.network):
            self.complaints.wrong(f"{where}: {problem}; choose another", path)
            return
        owner = self.addresses.get((network, interface.ip))
        if owner is not None:
            whose = "there twice" if owner == where else f"the address of {owner} already"
            self.complaints.wrong(f"{where}: {interface.ip} is {whose}", path)
        self.addresses.setdefault((network, interface.ip), where)

    def _gateway(self, where: str, form: NicForm, own: list[Interface], path: Path) -> str:
        if form.gateway in ("", NO_GATEWAY):
            return ""
        gateway = read_address(form.gateway)
        if gateway is None:
            self.complaints.wrong(
                f"{where}: gateway '{form.gateway[:64]}' is no address; write it like 10.0.1.1",
                path,
            )
            return ""
        subnet = next((i.network for i in own if gateway in i.network), None)
        if subnet is None:
            self.complaints.wrong(
                f"{where}: gateway {gateway} is in no subnet of this nic's addresses; choose one "
                "that is",
                path,
            )
        elif any(gateway == interface.ip for interface in own):
            self.complaints.wrong(
                f"{where}: gateway {gateway} is the nic's own address; write the router's", path
            )
        elif problem := no_host(gateway, subnet):
            self.complaints.wrong(f"{where}: gateway {problem}; choose another", path)
        return str(gateway)

    def mac(self, node: str, name: str, form: NicForm, path: Path) -> str:
        """Return the MAC address of a NIC: the one given, or a derived one."""
        mac = form.mac.lower() or stable_mac(self.template, node, name)
        where = f"node {node}, nic {name}"
        if not MAC.match(mac):
            self.complaints.wrong(
                f"{where}: '{form.mac[:64]}' is no MAC address; write it like 02:00:00:00:00:01",
                path,
            )
        elif int(mac[:2], 16) & 1:
            self.complaints.wrong(
                f"{where}: {mac} is a multicast MAC address; make its first octet even", path
            )
        elif not int(mac.replace(":", ""), 16):
            self.complaints.wrong(
                f"{where}: a MAC address cannot be all zero; choose another", path
            )
        elif mac in self.macs:
            self.complaints.wrong(f"{where}: MAC address {mac} is {self.macs[mac]}'s already", path)
        self.macs.setdefault(mac, f"{node}/{name}")
        return mac

    def routes(
        self, name: str, form: NodeForm, own: list[Interface], path: Path
    ) -> Iterator[RouteSpec]:
        """Return the routes of a node whose NICs have the addresses `own`."""
        for index, route in enumerate(form.routes):
            where = f"node {name}, route {index + 1}"
            at: Path = (*path, "routes", index)
            to, problem = (None, "") if route.to == "default" else _read_subnet(route.to)
            via = read_address(route.via)
            if problem:
                self.complaints.wrong(f"{where}: {problem}, or default", (*at, "to"))
            elif via is None:
                self.complaints.wrong(
                    f"{where}: via '{route.via[:64]}' is no address; write it like 10.0.1.1",
                    (*at, "via"),
                )
            elif to is not None and to.version != via.version:
                self.complaints.wrong(
                    f"{where}: {to} cannot be reached via {via}; both must be IPv{to.version}",
                    (*at, "via"),
                )
            elif not any(via in interface.network for interface in own):
                self.complaints.wrong(
                    f"{where}: via {via} is in no subnet of the node's addresses; choose one that "
                    "is",
                    (*at, "via"),
                )
            else:
                yield RouteSpec(to=str(to or "default"), via=str(via))


def _read_subnet(text: str) -> tuple[Subnet | None, str]:
    """Return a subnet, or why there is none."""
    if "/" in text:
        try:
            return ipaddress.ip_network(text), ""
        except ValueError:
            interface = _read_interface(text)
        if interface is not None:
            return None, f"'{text[:64]}' is an address in a subnet; write {interface.network}"
    return None, f"'{text[:64]}' is no subnet; write it like 10.0.1.0/24"


def _read_interface(text: str) -> Interface | None:
    if "/" not in text or "%" in text:
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def read_address(text: str) -> Address | None:
    """Return an address without prefix length and scope, or None."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def no_host(address: Address, subnet: Subnet) -> str:
    """Return why an address cannot be a host's, or nothing."""
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        return f"{address} cannot be the address of a machine"
    small = subnet.prefixlen >= subnet.max_prefixlen - 1  # RFC 3021: both are hosts' there
    if isinstance(address, ipaddress.IPv6Address) or small:
        return ""
    if address == subnet.network_address:
        return f"{address} is the address of the subnet {subnet} itself"
    if address == subnet.broadcast_address:
        return f"{address} is the broadcast address of {subnet}"
    return ""
