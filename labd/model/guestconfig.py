"""The text by which a guest learns what it is: fw_cfg item `opt/io.labd/config`.

One directive a line, words separated by one space:

    hostname NAME
    nic MAC NAME                 the card with this MAC gets this interface name, and is set up
    mtu NAME BYTES
    address NAME ADDRESS/LENGTH
    gateway NAME ADDRESS         default route over this card
    route CIDR|default ADDRESS
    forwarding on
    host NAME ADDRESS            a line of /etc/hosts
    nameserver ADDRESS           that knows the lab's names
    search DOMAIN
    dhcp NAME                    this card asks for its address
    authorized-key KEY...        the rest of the line
    run<TAB>ARG<TAB>ARG...       separated by tabs, run in this order when the network is there

A shell can read it without evaluating anything, for no value can hold a control character.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from labd.model.errors import InputError
from labd.model.specs import NicSpec, NodeSpec

_INTERFACE_LIMIT = 15  # IFNAMSIZ less the final zero, linux/if.h
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Who answers names in a network, and in which domain."""

    address: str
    domain: str


def interface_name(nic: str) -> str:
    """Return what the guest calls the NIC: its name, or a short form where that is too long.

    The short form has the first eight characters and six hex digits that depend on the whole name.
    """
    if len(nic) <= _INTERFACE_LIMIT:
        return nic
    return f"{nic[:8]}-{hashlib.sha256(nic.encode()).hexdigest()[:6]}"


def first_addresses(nodes: Iterable[NodeSpec]) -> dict[str, str]:
    """Return node name -> its first address, without prefix length; some nodes have none."""
    found: dict[str, str] = {}
    for node in nodes:
        addresses = [address for nic in node.nics for address in nic.addresses]
        if addresses:
            found[node.name] = addresses[0].partition("/")[0]
    return found


def guest_config(
    node: NodeSpec,
    *,
    hosts: Mapping[str, str] | None = None,
    mtus: Mapping[str, int] | None = None,
    resolvers: Mapping[str, Resolver] | None = None,
    authorized_keys: Sequence[str] = (),
) -> bytes:
    """Return the configuration of one node.

    Args:
        node: What it shall be.
        hosts: Name -> address of the nodes it shall know by name; see `first_addresses`.
        mtus: Network name -> MTU in bytes; networks that are not told have 1500.
        resolvers: Network name -> who answers names in it; told to nodes with an address there.
        authorized_keys: OpenSSH public keys that may log in as root.

    Raises:
        InputError: A value is no address, or has a control character in it.
    """
    where = f"node {node.name}"
    lines = [f"hostname {_word(node.name, where)}"]
    for nic in node.nics:
        lines += _nic(nic, where, (mtus or {}).get(nic.network, DEFAULT_MTU))
    for resolver in _resolvers(node, resolvers or {}):
        lines.append(f"nameserver {_address(resolver.address, where)}")
        lines.append(f"search {_word(resolver.domain, where)}")
    # After all cards are there, for it takes its time; what it tells comes with it.
    lines += [f"dhcp {interface_name(nic.name)}" for nic in node.nics if nic.dhcp]
    for route in node.routes:
        to = "default" if route.to == "default" else _network(route.to, where)
        lines.append(f"route {to} {_address(route.via, where)}")
    if node.forwarding:
        lines.append("forwarding on")
    for name, address in (hosts or {}).items():
        lines.append(f"host {_word(name, where)} {_address(address, where)}")
    lines += [f"authorized-key {_line(key, where).strip()}" for key in authorized_keys]
    for argv in node.commands:
        if not argv or not argv[0]:
            raise InputError(
                f"{where}: a command is empty; write the program first, then arguments"
            )
        if not all(argv):
            # A shell that splits at tabs reads two neighbouring tabs as one.
            raise InputError(f"{where}: command {argv[0]!r} has an empty argument; leave it out")
        lines.append("\t".join(["run", *(_line(word, where) for word in argv)]))
    return "".join(f"{line}\n" for line in lines).encode()


def _resolvers(node: NodeSpec, resolvers: Mapping[str, Resolver]) -> list[Resolver]:
    """Return who answers where a node has an address of its own, each once."""
    found = [
        resolvers[nic.network] for nic in node.nics if nic.addresses and nic.network in resolvers
    ]
    return list(dict.fromkeys(found))


def _nic(nic: NicSpec, where: str, mtu: int) -> list[str]:
    where = f"{where}, nic {nic.name[:64]!r}"
    name = interface_name(_word(nic.name, where))
    if not _MAC.match(nic.mac):
        raise InputError(
            f"{where}: {nic.mac[:64]!r} is no MAC address; write it like 02:00:00:00:00:01"
        )
    lines = [f"nic {nic.mac} {name}"]
    if mtu != DEFAULT_MTU:
        lines.append(f"mtu {name} {mtu:d}")
    for address in nic.addresses:
        try:
            lines.append(f"address {name} {ipaddress.ip_interface(address).with_prefixlen}")
        except ValueError:
            raise InputError(
                f"{where}: {address[:64]!r} is no address; write it like 10.0.0.1/24"
            ) from None
    if nic.gateway:
        lines.append(f"gateway {name} {_address(nic.gateway, where)}")
    return lines


def _address(text: str, where: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(f"{where}: {text[:64]!r} is no address; write it like 10.0.0.1") from None


def _network(text: str, where: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise InputError(
            f"{where}: {text[:64]!r} is no network; write it like 10.0.0.0/24"
        ) from None


def _word(text: str, where: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise InputError(f"{where}: {text[:64]!r} cannot be a name; leave out the blanks")
    return _line(text, where)


def _line(text: str, where: str) -> str:
    if not text.isprintable():
        raise InputError(
            f"{where}: {text[:64]!r} has a control character in it; the guest's configuration is "
            "made of lines, so leave out tabs and line ends"
        )
    return text
