"""`dhcp` and `dns` of networks: whether labd can serve them, and what it serves."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from labd.model.dhcp_options import read_option
from labd.model.errors import InputError
from labd.model.serving import MOST_ADDRESSES, DhcpOption, DhcpSpec, DnsSpec, NameRecord
from labd.model.specs import NetworkSpec, NodeSpec
from labd.template.addresses import Addressing, no_host, read_address
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.network_form import DhcpForm, NetworkForm

_ROOMY: Final = 29  # prefix length of the smallest subnet with a range that labd chooses itself
_SLAAC: Final = 64  # RFC 4862: the only prefix length by which guests make addresses
_SHORTEST, _LONGEST = 120, 30 * 86400  # seconds of a lease; dnsmasq takes none shorter
_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_NAME_LIMIT = 253  # RFC 1035, section 2.3.4, without the root


@dataclass
class Served:
    """Checks what labd is to serve; subnets have been read before."""

    addressing: Addressing
    complaints: Complaints

    def dhcp(
        self, where: str, name: str, form: NetworkForm, path: Path, *, link: bool
    ) -> DhcpSpec | None:
        """Return what a network gives out."""
        at: Path = (*path, "dhcp")
        if form.dhcp is None or not self._possible(where, "dhcp", name, form, at, link=link):
            return None
        v4, v6 = (self.addressing.of_version(name, version) for version in (4, 6))
        if v6 is not None and v6.prefixlen != _SLAAC:
            self.complaints.wrong(
                f"{where}: dhcp needs an IPv6 subnet with prefix length {_SLAAC}, not {v6}", at
            )
        first = last = ""
        if isinstance(v4, ipaddress.IPv4Network):
            first, last = self._range(where, form.dhcp, v4, at)
        elif form.dhcp.range:
            self.complaints.wrong(
                f"{where}: dhcp range is IPv4, and the network is not; leave it out",
                (*at, "range"),
            )
        if not _SHORTEST <= form.dhcp.lease <= _LONGEST:
            self.complaints.wrong(f"{where}: dhcp lease must be 2m to 30d", (*at, "lease"))
        return DhcpSpec(
            first=first,
            last=last,
            lease=int(form.dhcp.lease),
            options=tuple(self._options(where, form.dhcp, (*at, "options"))),
        )

    def _possible(
        self, where: str, what: str, name: str, form: NetworkForm, path: Path, *, link: bool
    ) -> bool:
        if link:
            problem = "its ends are two nodes, so labd serves nothing in it; use a network"
        elif form.uplink.startswith("bridge:"):
            problem = (
                f"{what} would answer machines outside the lab; leave it out with uplink bridge"
            )
        elif name not in self.addressing.subnets and name not in self.addressing.subnets6:
            if form.subnet or form.subnet6:
                return False  # a wrong one has been told already
            problem = f"{what} needs a subnet; write one, like subnet: 10.0.1.0/24"
        else:
            return True
        self.complaints.wrong(f"{where}: {problem}", path)
        return False

    def _range(
        self, where: str, form: DhcpForm, subnet: ipaddress.IPv4Network, path: Path
    ) -> tuple[str, str]:
        if not form.range:
            if subnet.prefixlen > _ROOMY:
                self.complaints.wrong(
                    f"{where}: {subnet} has no room for dhcp; write a subnet of /{_ROOMY} or wider",
                    path,
                )
                return "", ""
            # The highest is labd's own as a rule, the low ones are written in templates.
            last = subnet.broadcast_address - 2
            middle = subnet.network_address + subnet.num_addresses // 2
            return str(max(middle, last - MOST_ADDRESSES + 1)), str(last)
        at: Path = (*path, "range")
        if len(form.range) != 2:
            self.complaints.wrong(
                f"{where}: dhcp range is the first and the last address, like "
                f"[{subnet[1]}, {subnet[-2]}]",
                at,
            )
            return "", ""
        found = []
        for index, text in enumerate(form.range):
            address = read_address(text)
            if address is None:
                problem = f"'{text[:64]}' is no address; write it like {subnet[1]}"
            elif address not in subnet:
                problem = f"{address} is not in the subnet {subnet}"
            else:
                problem = no_host(address, subnet)
                found.append(address)
            if problem:
                self.complaints.wrong(f"{where}: dhcp range: {problem}", (*at, index))
                return "", ""
        if int(found[0]) > int(found[1]):
            self.complaints.wrong(
                f"{where}: dhcp range: {found[0]} comes after {found[1]}; write them the other "
                "way round",
                at,
            )
        elif int(found[1]) - int(found[0]) >= MOST_ADDRESSES:
            self.complaints.wrong(
                f"{where}: dhcp range has more than {MOST_ADDRESSES} addresses; write a smaller "
                "one",
                at,
            )
        return str(found[0]), str(found[1])

    def _options(self, where: str, form: DhcpForm, path: Path) -> Iterator[DhcpOption]:
        seen: dict[int, str] = {}
        for name, values in form.options.items():
            try:
                option = read_option(name, values)
            except InputError as error:
                self.complaints.wrong(f"{where}: {error.message}", (*path, name))
                continue
            other = seen.setdefault(option.number, name)
            if other != name:
                self.complaints.wrong(
                    f"{where}: DHCP option {name} is {other}; write it once", (*path, name)
                )
            yield option

    def dns(
        self, where: str, name: str, form: NetworkForm, path: Path, *, link: bool
    ) -> DnsSpec | None:
        """Return what a network answers."""
        at: Path = (*path, "dns")
        if form.dns is None or not self._possible(where, "dns", name, form, at, link=link):
            return None
        if not is_domain(form.dns.domain):
            self.complaints.wrong(
                f"{where}: dns domain '{form.dns.domain[:64]}' is no domain name; write it like "
                "lab or class.example",
                (*at, "domain"),
            )
        return DnsSpec(
            domain=form.dns.domain,
            records=tuple(self._records(where, form.dns.records, (*at, "records"))),
        )

    def _records(
        self, where: str, records: dict[str, list[str]], path: Path
    ) -> Iterator[NameRecord]:
        for name, addresses in records.items():
            if not is_domain(name):
                self.complaints.wrong(
                    f"{where}: dns record '{name[:64]}' is no name; use a-z, 0-9, '-' and '.'",
                    (*path, name),
                )
                continue
            for text in addresses:
                address = read_address(text)
                if address is None:
                    self.complaints.wrong(
                        f"{where}: dns record {name}: '{text[:64]}' is no address; write it like "
                        "10.0.1.10",
                        (*path, name),
                    )
                else:
                    yield NameRecord(name=name, address=str(address))

    def check_names(self, networks: Sequence[NetworkSpec], nodes: Sequence[NodeSpec]) -> None:
        """Refuse records that have the name of a node."""
        taken = {node.name for node in nodes}
        for network in networks:
            for record in network.dns.records if network.dns else ():
                domain = f".{network.dns.domain}" if network.dns else ""
                if record.name.removesuffix(domain) in taken:
                    self.complaints.wrong(
                        f"network {network.name}: dns record {record.name} is the name of a node "
                        "already; choose another",
                        ("networks", network.name, "dns", "records", record.name),
                    )


def is_domain(text: str) -> bool:
    """True if a text is a domain name."""
    return len(text) <= _NAME_LIMIT and _NAME.match(text) is not None
