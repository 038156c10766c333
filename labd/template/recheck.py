"""A spec that no template was compiled to: that of a checkpoint which came from elsewhere.

The planners write what stands in a spec into nftables rules, dnsmasq's files and QEMU's arguments,
and rely on `compile` for its form. A manifest is JSON that anybody can write, so whatever reaches
such a text is looked at here once more. What goes only into the guest, or into a message, is free.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final, TypeVar

from labd.model.errors import InputError
from labd.model.names import is_name
from labd.model.serving import MOST_ADDRESSES, DhcpSpec
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec
from labd.template.addresses import MAC, read_address
from labd.template.form import MAX_NICS, MAX_NODES, NodeForm
from labd.template.keys import Form, bounds, keys
from labd.template.network_form import NetworkForm
from labd.template.patterns import trouble
from labd.template.served import is_domain
from labd.template.uplinks import is_uplink

_IMAGE = re.compile(r"(?:|sha256:[0-9a-f]{64}|[a-z][a-z0-9-]{0,30})\Z")
_OPTION = re.compile(r'(?:"[^",\\#\x00-\x1f\x7f-\uffff]*"|-?[0-9]{1,10}|[0-9.]{7,15})\Z')
_PORTS: Final = range(1, 65536)
_SIZES: Final = range(1 << 20, (64 << 40) + 1)
_T = TypeVar("_T")


def check_spec(spec: LabSpec) -> None:
    """Raise InputError unless a spec has the form that `compile` gives.

    Raises:
        InputError: It has not; tells the place.
    """
    _require("template", spec.template, is_name)
    for chapter in spec.chapters:
        _require("chapter", chapter, is_name)
    if len(spec.nodes) > MAX_NODES or len(spec.networks) > MAX_NODES:
        raise InputError(f"the exported checkpoint has more than {MAX_NODES} nodes or networks")
    for network in spec.networks:
        _check_network(network)
    names = {network.name for network in spec.networks}
    for node in spec.nodes:
        _check_node(node, names)


def _check_network(network: NetworkSpec) -> None:
    at = f"network {network.name[:40]!r}"
    _require(f"{at}: name", network.name, is_name)
    _require(f"{at}: subnet", network.subnet, _empty_or(_is_subnet))
    _require(f"{at}: subnet6", network.subnet6, _empty_or(_is_subnet))
    _require(f"{at}: uplink", network.uplink, is_uplink)
    _require(f"{at}: gateway_address", network.gateway_address, _empty_or(_is_address))
    _check_bounds(at, network, NetworkForm)
    for item in network.allow:
        _require(f"{at}: allow", item.to, lambda text: text == "host" or _is_subnet(text))
        _require(f"{at}: allow", item.protocol, {"tcp", "udp"}.__contains__)
        for port in item.ports:
            _require(f"{at}: allow", port, _PORTS.__contains__)
    for name in network.trusted:
        _require(f"{at}: trusted", name, lambda text: all(map(is_name, text.split(":", 1))))
    if network.dhcp is not None:
        _check_dhcp(at, network.dhcp)
    if network.dns is not None:
        _require(f"{at}: dns", network.dns.domain, is_domain)
        for record in network.dns.records:
            _require(f"{at}: dns", record.name, is_domain)
            _require(f"{at}: dns", record.address, _is_address)


def _check_dhcp(at: str, dhcp: DhcpSpec) -> None:
    for address in (dhcp.first, dhcp.last):
        _require(f"{at}: dhcp", address, _empty_or(_is_address))
    if dhcp.first and dhcp.last:
        first, last = (int(ipaddress.ip_address(text)) for text in (dhcp.first, dhcp.last))
        _require(f"{at}: dhcp", last - first, range(MOST_ADDRESSES).__contains__)
    _require(f"{at}: dhcp", dhcp.lease, range(1, 1 << 32).__contains__)
    for option in dhcp.options:
        _require(f"{at}: dhcp", option.number, range(1, 255).__contains__)
        for value in option.values:
            _require(f"{at}: dhcp", value, _is_option)


def _check_node(node: NodeSpec, networks: set[str]) -> None:
    at = f"node {node.name[:40]!r}"
    _require(f"{at}: name", node.name, is_name)
    _require(f"{at}: kind", node.kind, is_name)
    _require(f"{at}: profile", node.profile, _empty_or(is_name))
    for image in (node.image, node.cdrom or ""):
        _require(f"{at}: image", image, lambda text: _IMAGE.match(text) is not None)
    _check_bounds(at, node, NodeForm)
    for size in (node.memory, node.disk, *(disk.size for disk in node.disks)):
        _require(f"{at}: size", size or _SIZES[0], _SIZES.__contains__)
    for disk in node.disks:
        _require(f"{at}: disk", disk.name, is_name)
    _require(f"{at}: cmdline", node.cmdline, str.isprintable)
    _require(f"{at}: ready", node.ready.console, lambda text: not trouble(text))
    _require(f"{at}: ready", node.ready.tcp_port or 1, _PORTS.__contains__)
    for route in node.routes:
        _require(f"{at}: route", route.to, lambda text: text == "default" or _is_subnet(text))
        _require(f"{at}: route", route.via, _is_address)
    for dependency in node.depends_on:
        _require(f"{at}: depends_on", dependency.node, is_name)
    for item in node.publish:
        _require(f"{at}: publish", item.address, _is_address)
        _require(f"{at}: publish", item.port, _PORTS.__contains__)
        _require(f"{at}: publish", item.host_port, lambda port: port == 0 or 1024 <= port <= 65535)
    _require(f"{at}: nics", len(node.nics), range(MAX_NICS + 1).__contains__)
    for nic in node.nics:
        _check_nic(at, nic, networks)


def _check_nic(at: str, nic: NicSpec, networks: set[str]) -> None:
    _require(f"{at}: nic", nic.name, is_name)
    _require(f"{at}: nic", nic.network, networks.__contains__)
    _require(f"{at}: mac", nic.mac, lambda text: MAC.match(text) is not None)
    _require(f"{at}: slot", nic.slot or 0, range(64).__contains__)
    _require(f"{at}: gateway", nic.gateway, _empty_or(_is_address))
    for address in nic.addresses:
        _require(f"{at}: address", address, _is_interface)


def _check_bounds(at: str, spec: NetworkSpec | NodeSpec, form: type[Form]) -> None:
    """Check the numbers whose keys are declared with bounds."""
    for name, field, _ in keys(form):
        allowed, value = bounds(field), getattr(spec, name, None)
        if allowed is not None and value is not None:
            least, most = allowed
            _require(f"{at}: {name}", value, range(least, most + 1).__contains__)


def _require(what: str, value: _T, fits: Callable[[_T], bool]) -> None:
    if not fits(value):
        raise InputError(
            f"the exported checkpoint is not one of labd's: {what}: {str(value)[:64]!r}"
        )


def _empty_or(fits: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: not text or fits(text)


def _is_address(text: str) -> bool:
    return read_address(text) is not None


def _is_subnet(text: str) -> bool:
    return _parses(ipaddress.ip_network, text)


def _is_interface(text: str) -> bool:
    return _parses(ipaddress.ip_interface, text)


def _is_option(text: str) -> bool:
    return _OPTION.match(text) is not None


def _parses(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return "%" not in text  # what follows it in an IPv6 address may be anything
