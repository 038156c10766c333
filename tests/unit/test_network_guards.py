"""What `port_security` plans and writes, and what it complains of."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.drivers.network.linux.guards import guard_rules, plan_guards
from labd.model.errors import TemplateError
from labd.model.network import GuardPlan
from labd.template import load

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = """\
name: guarded
networks:
  lan: {subnet: 10.0.0.0/24, subnet6: "fd00:1::/64", dhcp: {range: [10.0.0.100, 10.0.0.120]},
        gateway: node, port_security: address, trusted: ["odd:eth0"]}
  plain: {subnet: 10.1.0.0/24, port_security: mac}
  open: {subnet: 10.2.0.0/24}
nodes:
  pc: {image: tiny, nics: {eth0: {network: lan, address: 10.0.0.7/24}, eth1: {network: plain},
       eth2: {network: open}}}
  guest: {image: tiny, nics: {eth0: {network: lan, address: dhcp}}}
  router: {image: tiny, forwarding: true, nics: {eth0: {network: lan, address: 10.0.0.1/24}}}
  odd: {image: tiny, nics: {eth0: {network: lan}}}
"""
_NO_ADDRESS = (
    "network lan: port_security: address holds odd:eth0 to its address, and it has none; "
    "write one, or address: dhcp, or have it trusted"
)


def guards() -> dict[str, GuardPlan]:
    spec = load(TEMPLATE, "guarded.yaml", {})
    planned = plan_guards(spec, {node.name: node.name.ljust(6, "x") for node in spec.nodes})
    macs = {nic.mac: f"{node.name}:{nic.name}" for node in spec.nodes for nic in node.nics}
    return {macs[guard.mac]: guard for guard in planned}


def test_each_nic_is_held_to_what_is_known_of_it() -> None:
    found = guards()
    assert sorted(found) == ["guest:eth0", "pc:eth0", "pc:eth1", "router:eth0"]
    told = {name: (guard.strict, guard.ipv4, guard.ipv6) for name, guard in found.items()}
    assert told == {
        "pc:eth0": (True, ("10.0.0.7",), ()),
        "pc:eth1": (False, (), ()),  # mac
        "guest:eth0": (True, ("10.0.0.100-10.0.0.120",), ("fd00:1::/64",)),
        "router:eth0": (False, (), ()),  # what it forwards comes from others
    }


def test_the_rules_are_one_text() -> None:
    text = guard_rules(tuple(guards().values()))
    assert text == (GOLDEN / "guards.nft").read_text()
    assert guard_rules(()) == "add table bridge labd_guard\ndelete table bridge labd_guard\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'trusted: ["odd:eth0"]',
            "trusted: []",
            _NO_ADDRESS,
        ),
        (
            '["odd:eth0"]',
            '["odd:eth0", "pc:eth1"]',
            "network lan: trusted 'pc:eth1' is no NIC in it; write NODE:NIC, like router:eth1",
        ),
        (
            "port_security: mac",
            'trusted: ["pc:eth1"]',
            "network plain: trusted is of port_security: mac or address; leave it out",
        ),
        (
            "port_security: mac",
            "port_security: strict",
            "network plain, port_security: must be none, mac or address",
        ),
    ],
)
def test_what_cannot_be_held_is_told(old: str, new: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        load(TEMPLATE.replace(old, new), "guarded.yaml", {})
    assert [problem.message for problem in caught.value.problems] == [says]
