"""Checks of `port_security` and `trusted`."""

from __future__ import annotations

from collections.abc import Sequence

from labd.model.specs import NetworkSpec, NodeSpec, PortSecurity
from labd.template.complaints import Complaints
from labd.template.document import Path


def check_port_security(
    networks: Sequence[NetworkSpec], nodes: Sequence[NodeSpec], complaints: Complaints
) -> None:
    """Complain of NICs that can't be held to anything, and of names that lead nowhere."""
    for network in networks:
        kind = "link" if network.link else "network"
        path: Path = (f"{kind}s", network.name)
        where = f"{kind} {network.name}"
        if network.port_security is PortSecurity.NONE:
            if network.trusted:
                complaints.wrong(
                    f"{where}: trusted is of port_security: mac or address; leave it out",
                    (*path, "trusted"),
                )
            continue
        inside = {
            f"{node.name}:{nic.name}": (node, nic)
            for node in nodes
            for nic in node.nics
            if nic.network == network.name
        }
        for index, name in enumerate(network.trusted):
            if name not in inside:
                complaints.wrong(
                    f"{where}: trusted '{name[:64]}' is no NIC in it; write NODE:NIC, like "
                    "router:eth1",
                    (*path, "trusted", index),
                )
        if network.port_security is not PortSecurity.ADDRESS:
            continue
        for name, (node, nic) in inside.items():
            known = nic.addresses or nic.dhcp or node.forwarding
            if not known and name not in network.trusted:
                complaints.wrong(
                    f"{where}: port_security: address holds {name} to its address, and it has "
                    "none; write one, or address: dhcp, or have it trusted",
                    (*path, "port_security"),
                )
