"""From a spec to bridges and taps."""

from __future__ import annotations

import pytest

from labd.drivers.network.linux.names import bridge_name
from labd.drivers.network.linux.plan import own_address, plan
from labd.model.network import BridgePlan, LabNetworkPlan, PortPlan
from labd.model.specs import Gateway, LabSpec, NetworkSpec, NicSpec, NodeSpec


def node(name: str, *networks: str) -> NodeSpec:
    nics = tuple(
        NicSpec(name=f"eth{i}", network=net, mac=f"02:00:00:00:00:0{i}", addresses=("10.0.0.1/24",))
        for i, net in enumerate(networks)
    )
    return NodeSpec(name=name, image="tiny", nics=nics)


def test_a_plan_has_a_bridge_a_network_and_a_tap_a_nic() -> None:
    spec = LabSpec(
        template="t",
        nodes=(node("a", "lan"), node("b", "lan", "a-very-long-network-name")),
        networks=(
            NetworkSpec(name="lan", subnet="10.0.0.0/24", mtu=1400),
            NetworkSpec(name="a-very-long-network-name"),
        ),
    )
    long = bridge_name("a-very-long-network-name")
    assert len(long) <= 15
    assert plan(spec, "labkey", "0badcafe", {"a": "aaaaaa", "b": "bbbbbb"}) == LabNetworkPlan(
        namespace="labd-0badcafe-labkey",
        bridges=(
            BridgePlan(network="lan", bridge="br-lan", mtu=1400, address="10.0.0.254/24"),
            BridgePlan(network="a-very-long-network-name", bridge=long, address="10.0.0.254/24"),
        ),
        ports=(
            PortPlan(key="aaaaaa", nic="n0", tap="taaaaaa0", bridge="br-lan", mtu=1400),
            PortPlan(key="bbbbbb", nic="n0", tap="tbbbbbb0", bridge="br-lan", mtu=1400),
            PortPlan(key="bbbbbb", nic="n1", tap="tbbbbbb1", bridge=long),
        ),
    )


def test_names_do_not_depend_on_what_else_there_is() -> None:
    assert bridge_name("lan") == "br-lan"
    assert bridge_name("network-number-one") != bridge_name("network-number-two")


@pytest.mark.parametrize(
    ("subnet", "used", "own"),
    [
        ("10.0.0.0/24", set(), "10.0.0.254/24"),
        ("10.0.0.0/24", {"10.0.0.254/24", "10.0.0.253"}, "10.0.0.252/24"),
        ("10.0.0.0/30", {"10.0.0.1/30", "10.0.0.2/30"}, ""),
        ("10.0.0.0/31", set(), ""),
        ("10.0.0.7/32", set(), ""),
        ("", {"10.1.0.5/16"}, "10.1.255.254/16"),
        ("", set(), ""),
        ("fd00::/64", set(), ""),
    ],
)
def test_labds_own_address(subnet: str, used: set[str], own: str) -> None:
    assert own_address(NetworkSpec(name="n", subnet=subnet), used) == own


def test_where_labd_is_the_gateway_it_has_that_address() -> None:
    network = NetworkSpec(
        name="n", subnet="10.0.0.0/22", gateway=Gateway.LABD, gateway_address="10.0.0.1"
    )
    assert own_address(network, {"10.0.0.2/22"}) == "10.0.0.1/22"


def test_labd_has_no_address_in_a_network_of_the_hosts() -> None:
    network = NetworkSpec(name="n", subnet="10.0.0.0/24", uplink="bridge:br0")
    assert own_address(network, {"10.0.0.2/24"}) == ""
