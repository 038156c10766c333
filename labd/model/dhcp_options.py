"""DHCP options by name or number, and which values they take (RFC 2132). Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from labd.model.errors import InputError
from labd.model.names import did_you_mean
from labd.model.serving import DhcpOption


class _Kind(StrEnum):
    ADDRESSES = "addresses, like 10.0.1.1"
    TEXT = "a text"
    NUMBER = "a whole number"
    ANY = "a text, a whole number, or addresses"


_A, _T, _N = _Kind.ADDRESSES, _Kind.TEXT, _Kind.NUMBER
# Names as dnsmasq has them (`dnsmasq --help dhcp`), of those with values that can be checked.
_NAMED: Final[Mapping[str, tuple[int, _Kind]]] = {
    "time-offset": (2, _N),
    "router": (3, _A),
    "dns-server": (6, _A),
    "log-server": (7, _A),
    "lpr-server": (9, _A),
    "boot-file-size": (13, _N),
    "domain-name": (15, _T),
    "swap-server": (16, _A),
    "root-path": (17, _T),
    "extension-path": (18, _T),
    "max-datagram-reassembly": (22, _N),
    "default-ttl": (23, _N),
    "mtu": (26, _N),
    "router-solicitation": (32, _A),
    "arp-timeout": (35, _N),
    "tcp-ttl": (37, _N),
    "tcp-keepalive": (38, _N),
    "nis-domain": (40, _T),
    "nis-server": (41, _A),
    "ntp-server": (42, _A),
    "netbios-ns": (44, _A),
    "netbios-dd": (45, _A),
    "netbios-nodetype": (46, _N),
    "netbios-scope": (47, _T),
    "x-windows-fs": (48, _A),
    "x-windows-dm": (49, _A),
    "vendor-class": (60, _T),
    "nis+-domain": (64, _T),
    "nis+-server": (65, _A),
    "tftp-server": (66, _T),
    "bootfile-name": (67, _T),
    "mobile-ip-home": (68, _A),
    "smtp-server": (69, _A),
    "pop3-server": (70, _A),
    "nntp-server": (71, _A),
    "irc-server": (74, _A),
    "posix-timezone": (100, _T),
    "tzdb-timezone": (101, _T),
    "tftp-server-address": (150, _A),
}
_KINDS = dict(_NAMED.values())
# What the exchange itself is made of (RFC 2131), or follows from subnet, lease and client.
_OWN = frozenset({0, 1, 12, 28, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 81, 82, 118, 255})
# What would end a value, or the line of dnsmasq's that it stands in.
_UNSAFE = re.compile(r'[",\\#]|[^ -~]')
_LIMIT = 255  # octets of an option


def read_option(name: str, values: Sequence[str]) -> DhcpOption:
    """Return an option by name or number.

    Raises:
        InputError: There is no such option, or it does not take such values.
    """
    if name.isdecimal() and len(name) <= 3:
        number = int(name)
        kind = _KINDS.get(number, _Kind.ANY)
    elif name in _NAMED:
        number, kind = _NAMED[name]
    else:
        near = did_you_mean(name, _NAMED) or "; write its number, 1 to 254"
        raise InputError(f"there is no DHCP option '{name[:64]}'{near}")
    if number > 254 or number in _OWN:
        raise InputError(f"DHCP option {name} is not yours to set; leave it out")
    if not values or sum(len(value) + 1 for value in values) > _LIMIT:
        raise InputError(f"DHCP option {name} has 1 to {_LIMIT} characters in all")
    if not _fits(kind, values):
        raise InputError(
            f"DHCP option {name} takes {kind}, without quotes, commas, '#' and backslashes"
            if kind in {_Kind.TEXT, _Kind.ANY}
            else f"DHCP option {name} takes {kind}"
        )
    return DhcpOption(number=number, values=tuple(_written(kind, value) for value in values))


def _fits(kind: _Kind, values: Sequence[str]) -> bool:
    if kind is _Kind.ADDRESSES:
        return all(_is_address(value) for value in values)
    if kind is _Kind.NUMBER:
        return len(values) == 1 and _is_number(values[0])
    if any(not value or _UNSAFE.search(value) for value in values):
        return False
    return len(values) == 1 or all(_is_address(value) for value in values)


def _written(kind: _Kind, value: str) -> str:
    """Return a value as dnsmasq reads it: quotes keep it from guessing what a text is."""
    if kind is _Kind.TEXT or not (_is_address(value) or _is_number(value)):
        return f'"{value}"'
    return value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,10}", text) is not None and -(1 << 31) <= int(text) < 1 << 32


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
