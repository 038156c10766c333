"""How a network leaves the lab: the uplink, its VLAN, and what guests may reach on the host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from labd.model.specs import AllowSpec
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.network_form import AllowForm, NetworkForm

# An interface name as the kernel takes it (dev_valid_name, net/core/dev.c), less exotic characters.
_UPLINK = re.compile(r"(?:none|nat|bridge:[A-Za-z0-9][A-Za-z0-9_.-]{0,14})\Z")
HOST: Final = "host"


def is_uplink(text: str) -> bool:
    """True if a text is an uplink."""
    return _UPLINK.match(text) is not None


def check_uplink(
    where: str, form: NetworkForm, path: Path, complaints: Complaints, *, link: bool
) -> None:
    """Check `uplink` and `vlan`."""
    if link and form.uplink != "none":
        complaints.wrong(
            f"{where}: its ends are two nodes, so it has no uplink; use a network",
            (*path, "uplink"),
        )
    elif not is_uplink(form.uplink):
        complaints.wrong(
            f"{where}: uplink must be none, nat or bridge:INTERFACE, not '{form.uplink[:64]}'",
            (*path, "uplink"),
        )
    elif form.vlan and not form.uplink.startswith("bridge:"):
        complaints.wrong(
            f"{where}: vlan is of an uplink bridge:INTERFACE; leave it out", (*path, "vlan")
        )
    if form.allow and form.uplink != "nat":
        complaints.wrong(
            f"{where}: allow is of uplink: nat; without it guests reach nothing outside the lab",
            (*path, "allow"),
        )


def allowed(
    where: str, form: NetworkForm, path: Path, complaints: Complaints
) -> Iterator[AllowSpec]:
    """Yield what guests of a network may reach."""
    for index, item in enumerate(form.allow):
        at: Path = (*path, "allow", index)
        to, problem = _target(item.to)
        if problem:
            complaints.wrong(f"{where}, allow {index + 1}: {problem}", (*at, "to"))
        elif not item.tcp and not item.udp:
            complaints.wrong(
                f"{where}, allow {index + 1}: name ports, like {{to: {item.to}, tcp: [80]}}", at
            )
        else:
            yield from _by_protocol(to, item)


def _by_protocol(to: str, item: AllowForm) -> Iterator[AllowSpec]:
    for protocol, ports in (("tcp", item.tcp), ("udp", item.udp)):
        if ports:
            yield AllowSpec(to=to, protocol=protocol, ports=tuple(sorted(set(ports))))


def _target(text: str) -> tuple[str, str]:
    """Return `host` or a CIDR, or why it is neither."""
    if text == HOST:
        return text, ""
    try:
        return str(ipaddress.IPv4Network(text)), ""
    except ValueError:
        return "", (
            f"'{text[:64]}' is neither host nor an IPv4 address or subnet; write it like "
            "192.0.2.10 or 192.0.2.0/24"
        )
