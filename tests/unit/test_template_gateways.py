"""Default routes that follow from who routes a network."""

from __future__ import annotations

from labd.model.specs import Gateway
from labd.template import load

ROUTED = """name: routed
networks:
  wan: {subnet: 10.0.0.0/24, uplink: nat}
  lan: {subnet: 10.0.1.0/24, gateway: node, gateway_address: 10.0.1.254}
  off: {subnet: 10.0.2.0/24}
  six: {subnet: "fd00::/64", gateway: node}
nodes:
  router:
    image: tiny
    forwarding: true
    nics:
      eth0: {network: wan, address: 10.0.0.2/24}
      eth1: {network: lan, address: 10.0.1.254/24}
      eth2: {network: six, address: "fd00::1/64"}
  plain: {image: tiny, nics: {eth0: {network: lan, address: 10.0.1.10/24}}}
  both:
    image: tiny
    nics:
      eth0: {network: off, address: 10.0.2.10/24}
      eth1: {network: lan, address: 10.0.1.11/24}
      eth2: {network: wan, address: 10.0.0.11/24}
      eth3: {network: six, address: "fd00::11/64"}
  own: {image: tiny, nics: {eth0: {network: lan, address: 10.0.1.12/24, gateway: 10.0.1.11}}}
  none: {image: tiny, nics: {eth0: {network: lan, address: 10.0.1.13/24, gateway: none}}}
  route:
    image: tiny
    nics: {eth0: {network: lan, address: 10.0.1.14/24}}
    routes: [{to: default, via: 10.0.1.11}]
  dhcp: {image: tiny, nics: {eth0: {network: lan}}}
"""


def test_a_node_gets_one_default_route_by_the_first_nic_that_may() -> None:
    spec = load(ROUTED, "lab.yaml")
    found = {node.name: [nic.gateway for nic in node.nics] for node in spec.nodes}
    assert found == {
        "router": ["10.0.0.1", "", ""],
        "plain": ["10.0.1.254"],
        "both": ["", "10.0.1.254", "", "fd00::1"],
        "own": ["10.0.1.11"],
        "none": [""],
        "route": [""],
        "dhcp": [""],
    }


def test_labd_routes_what_has_nat_unless_it_is_said_too() -> None:
    spec = load(ROUTED, "lab.yaml")
    assert [(net.gateway, net.gateway_address) for net in spec.networks] == [
        (Gateway.LABD, "10.0.0.1"),
        (Gateway.NODE, "10.0.1.254"),
        (Gateway.NONE, ""),
        (Gateway.NODE, "fd00::1"),
    ]
