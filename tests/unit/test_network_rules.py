"""What nftables shall hold, as golden text; and which addresses a lab gets."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from labd.drivers.network.linux.names import lab_mark, link_name, mapped_names, table_name
from labd.drivers.network.linux.rules import Outside, Transit, host_rules, lab_rules
from labd.drivers.network.linux.transit import choose
from labd.drivers.network.linux.uplinks_plan import plan_uplinks
from labd.model.errors import InputError
from labd.model.network import AllowPlan, MappedPlan, UplinkPlan
from labd.model.specs import AllowSpec, Gateway, LabSpec, NetworkSpec

GOLDEN = Path(__file__).parent / "golden"
TRANSIT = Transit(host=IPv4Address("198.18.0.5"), lab=IPv4Address("198.18.0.6"))
POOL = IPv4Network("198.18.0.0/28")
SPEC = LabSpec(
    template="t",
    networks=(
        NetworkSpec(
            name="lan",
            subnet="10.0.0.0/24",
            uplink="nat",
            gateway=Gateway.LABD,
            gateway_address="10.0.0.1",
            allow=(
                AllowSpec(to="host", protocol="tcp", ports=(80, 443)),
                AllowSpec(to="192.0.2.0/28", protocol="udp", ports=(53,)),
            ),
        ),
        NetworkSpec(
            name="side",
            subnet="10.0.1.0/24",
            gateway=Gateway.LABD,
            gateway_address="10.0.1.1",
        ),
        NetworkSpec(name="own", subnet="10.0.2.0/24"),
        NetworkSpec(name="office", uplink="bridge:br0", vlan=20, mtu=1400),
    ),
)


def plan(*networks: NetworkSpec) -> UplinkPlan | None:
    return plan_uplinks(LabSpec(template="t", networks=networks), "labkey", "0badcafe")


def full() -> UplinkPlan:
    made = plan(*SPEC.networks)
    assert made is not None
    return made


def test_a_plan_says_what_leaves_the_lab() -> None:
    outer, inner, tagged = mapped_names("labd-0badcafe-labkey", "office")
    assert full() == UplinkPlan(
        table="labd_0badcafe_labkey",
        link="v0badcafelabkey",
        routed=("br-lan", "br-side"),
        nat=("br-lan",),
        allow=(
            AllowPlan(
                bridge="br-lan", gateway="10.0.0.1", to="host", protocol="tcp", ports=(80, 443)
            ),
            AllowPlan(
                bridge="br-lan",
                gateway="10.0.0.1",
                to="192.0.2.0/28",
                protocol="udp",
                ports=(53,),
            ),
        ),
        mapped=(
            MappedPlan(
                network="office",
                bridge="br-office",
                host_bridge="br0",
                outer=outer,
                inner=inner,
                vlan=20,
                tagged=tagged,
                mtu=1400,
            ),
        ),
    )


def test_a_lab_that_stays_by_itself_has_no_plan() -> None:
    assert plan(NetworkSpec(name="lan", subnet="10.0.0.0/24")) is None
    alone = NetworkSpec(
        name="lan", subnet="10.0.0.0/24", gateway=Gateway.LABD, gateway_address="10.0.0.1"
    )
    assert plan(alone) is None, "one network has nothing to route to"


def test_names_fit_and_lead_back() -> None:
    namespace = "labd-0badcafe-labkey"
    assert table_name(namespace) == "labd_0badcafe_labkey"
    assert lab_mark(namespace) == "labd:0badcafe:labkey"
    assert len(link_name(namespace)) == 15
    assert len(link_name("labd-0badcafe-longer-key")) == 15
    assert {len(name) for name in mapped_names(namespace, "lan")} == {15}


@pytest.mark.parametrize("forwarding", [(), ("eth0", "wlan0")], ids=["router", "host"])
def test_the_rules_of_the_host(forwarding: tuple[str, ...]) -> None:
    outside = Outside(
        interfaces=("eth0", "wlan0"),
        forwarding=forwarding,
        closed=(IPv4Network("198.18.0.0/16"), IPv4Network("10.0.0.0/8")),
    )
    golden = GOLDEN / f"nft-host-{'host' if forwarding else 'router'}.nft"
    assert host_rules(full(), TRANSIT, outside) == golden.read_text()


def test_the_rules_of_the_lab() -> None:
    assert lab_rules(full(), TRANSIT) == (GOLDEN / "nft-lab-nat.nft").read_text()
    assert lab_rules(full(), None) == (GOLDEN / "nft-lab-routed.nft").read_text()


def test_every_lab_gets_another_pair_until_there_is_none() -> None:
    taken = [IPv4Network("198.18.0.4/30"), IPv4Network("10.0.0.0/8"), IPv4Network("198.18.0.9/32")]
    found = []
    for seed in ("one", "two"):
        transit = choose(POOL, taken, seed)
        assert int(transit.lab) == int(transit.host) + 1
        found.append(ipaddress.ip_network(f"{transit.host}/30", strict=False))
        taken.append(IPv4Network(found[-1]))
    assert set(map(str, found)) == {"198.18.0.0/30", "198.18.0.12/30"}
    with pytest.raises(InputError) as caught:
        choose(POOL, taken, "three")
    assert str(caught.value) == (
        "all transit addresses of 198.18.0.0/28 are taken; destroy a lab, or write a wider subnet "
        "as transit in [network] of labd.toml"
    )


def test_a_pool_that_the_host_uses_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        choose(POOL, [IPv4Network("198.18.0.0/15")], "one")
    assert str(caught.value) == (
        "the host has a route to 198.18.0.0/28, from which labs' transit addresses come; write "
        "another subnet as transit in [network] of labd.toml"
    )
