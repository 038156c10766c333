"""What a lab's dnsmasq reads, what is read of it, and what a template may not ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labd.drivers.network.linux import dnsmasq, leases
from labd.drivers.network.linux.plan import plan
from labd.drivers.node.qemu.interfaces import read as read_interfaces
from labd.features.labs.diff import needs_new_ports, plan_changes
from labd.features.serving.service import lease_records
from labd.model.dhcp_options import read_option
from labd.model.errors import InputError, TemplateError
from labd.model.guestconfig import Resolver, guest_config
from labd.model.records import LeaseRecord
from labd.model.serving import Lease, ServerPlan
from labd.model.specs import LabSpec
from labd.template import load

GOLDEN = Path(__file__).parent / "golden" / "dnsmasq.txt"
REFUSED = GOLDEN.with_name("serving-errors.txt")
FULL = """name: full
networks:
  lan:
    subnet: 10.0.1.0/24
    subnet6: fd00:1::/64
    uplink: nat
    dhcp:
      range: [10.0.1.100, 10.0.1.199]
      lease: 12h
      options: {ntp-server: [10.0.1.10, 10.0.1.11], bootfile-name: a b.img, "224": 7, "252": x/y}
    dns: {domain: office.lab, records: {www: 10.0.1.10, mail.example.org: [10.0.1.11, "fd00:1::5"]}}
  dmz:
    subnet: 10.0.2.0/29
    gateway: node
    dhcp: true
  side:
    subnet: 10.0.3.0/24
    dns: {domain: side}
nodes:
  web:
    image: tiny
    nics:
      eth0: {network: lan, addresses: [10.0.1.10/24, "fd00:1::10/64"], mac: "02:00:00:00:00:01"}
      eth1: {network: dmz, address: 10.0.2.1/29, mac: "02:00:00:00:00:02"}
  pc:
    image: tiny
    nics: {eth0: {network: lan, address: dhcp, mac: "02:00:00:00:00:03"}}
"""


def spec(text: str = FULL) -> LabSpec:
    return load(text, "lab.yaml")


def server(lab: LabSpec, resolvers: str = "/etc/resolv.conf") -> ServerPlan:
    found = plan(lab, "labkey", "0badcafe", {}, resolvers=resolvers).server
    assert found is not None
    return found


def test_what_dnsmasq_reads_is_as_the_golden_file_has_it() -> None:
    found = server(spec())
    argv = " ".join(dnsmasq.argv(Path("/run/labd/d/labkey"), found))
    parts = {
        "argv": f"{argv.replace(dnsmasq.digest_of(found), 'DIGEST')}\n",
        "capabilities": f"{' '.join(dnsmasq.capabilities(found))}\n",
        "config": found.config,
        "hosts": found.hosts,
        "clients": found.clients,
        "options": found.options,
    }
    assert "".join(f"=== {name}\n{text}" for name, text in parts.items()) == GOLDEN.read_text()


def test_a_lab_that_asks_for_nothing_has_no_server() -> None:
    text = (
        "name: a\nnetworks: {lan: {subnet: 10.0.0.0/24, dhcp: false}}\nnodes: {n: {image: tiny}}\n"
    )
    assert plan(spec(text), "labkey", "0badcafe", {}).server is None


def test_the_outside_is_asked_only_where_every_network_with_names_has_a_way_out() -> None:
    one = "name: a\nnetworks:\n  lan: {subnet: 10.0.0.0/24, uplink: nat, dns: true}\n"
    other = "  side: {subnet: 10.0.1.0/24, dns: true}\n"
    nodes = "nodes: {n: {image: tiny}}\n"
    assert "\nresolv-file=/etc/resolv.conf\n" in server(spec(one + nodes)).config
    assert "\nno-resolv\n" in server(spec(one + nodes), "").config
    config = server(spec(one + other + nodes)).config
    assert "\nno-resolv\n" in config
    assert "resolv-file" not in config


def test_rights_follow_from_what_is_served() -> None:
    network = "name: a\nnetworks:\n  lan: {subnet: 10.0.0.0/24, %s}\nnodes: {n: {image: tiny}}\n"
    assert dnsmasq.capabilities(server(spec(network % "dns: true"))) == ("net_bind_service",)
    assert dnsmasq.capabilities(server(spec(network % "dhcp: true"))) == (
        "net_bind_service",
        "net_admin",
    )


def test_leases_are_limited_whatever_the_range() -> None:
    text = (
        "name: a\nnetworks:\n  lan: {subnet: 10.0.0.0/8, dhcp: true}\nnodes: {n: {image: tiny}}\n"
    )
    assert "\ndhcp-lease-max=1000\n" in server(spec(text)).config


def test_a_network_without_room_for_labd_is_refused() -> None:
    nics = "".join(
        f"  n{i}: {{image: tiny, nics: {{eth0: {{network: lan, address: 10.0.0.{i}/29}}}}}}\n"
        for i in range(1, 7)
    )
    text = f"name: a\nnetworks:\n  lan: {{subnet: 10.0.0.0/29, dns: true}}\nnodes:\n{nics}"
    with pytest.raises(InputError) as caught:
        plan(spec(text), "labkey", "0badcafe", {})
    assert str(caught.value) == (
        "network lan: labd serves it and has no address left in it; free one, or write a wider "
        "subnet"
    )


def refused() -> list[tuple[str, str]]:
    """Return the networks that cannot be served, and what is said of each."""
    lines = REFUSED.read_text().splitlines()
    return [(lines[i], lines[i + 1].strip()) for i in range(0, len(lines), 2)]


@pytest.mark.parametrize(("network", "message"), refused())
def test_what_cannot_be_served_is_told_with_its_place(network: str, message: str) -> None:
    text = f"name: a\nnetworks:\n  lan: {{{network}}}\nnodes:\n  n: {{image: tiny}}\n"
    with pytest.raises(TemplateError) as caught:
        load(text, "lab.yaml")
    assert str(caught.value).splitlines()[0] == message


def test_a_link_is_served_by_nobody() -> None:
    text = (
        "name: a\nlinks:\n  l: {subnet: 10.0.0.0/24, dhcp: true, ends: ['a:e', 'b:e']}\n"
        "nodes:\n  a: {image: tiny}\n  b: {image: tiny}\n"
    )
    with pytest.raises(TemplateError, match="so labd serves nothing in it; use a network"):
        load(text, "lab.yaml")


@pytest.mark.parametrize("value", ['a"b', "a,b", "a\\b", "a#b", "ä", ""])
def test_an_option_cannot_end_its_line(value: str) -> None:
    with pytest.raises(InputError, match="without quotes, commas"):
        read_option("bootfile-name", [value])


def test_options_by_number_are_those_by_name() -> None:
    assert read_option("42", ["10.0.0.1"]) == read_option("ntp-server", ["10.0.0.1"])
    for name in ("0", "255", "999", "51"):
        with pytest.raises(InputError):
            read_option(name, ["1"])


LEASES = """\
1795408342 02:00:00:00:00:03 10.0.1.132 pc 01:02:00:00:00:00:00:03
1795408342 02:00:00:00:00:09 10.0.1.133 * ff:00
half a line
duid 00:01:00:01:31:6c:a1:5a:02:00:00:00:00:99
1795408342 1234567 fd00:1::1000 pc 00:03:00:01:02:00:00:00:00:03
1795408342 T7654321 fd00:1::1001 * 00:02:00:00:ab:11
"""


def test_a_lease_file_is_read_as_far_as_it_can_be() -> None:
    assert leases.parse(LEASES) == [
        Lease(address="10.0.1.132", mac="02:00:00:00:00:03", name="pc"),
        Lease(address="10.0.1.133", mac="02:00:00:00:00:09"),
        Lease(address="fd00:1::1000", mac="02:00:00:00:00:03", name="pc"),
        Lease(address="fd00:1::1001"),
    ]
    assert leases.parse("\0\xff 1 2\n") == []


def test_leases_are_of_the_nodes_with_their_mac_addresses() -> None:
    found = lease_records("x", spec(), leases.parse(LEASES)[:2])
    assert found == [
        LeaseRecord(
            lab="x",
            address="10.0.1.132",
            network="lan",
            mac="02:00:00:00:00:03",
            name="pc",
            node="pc",
            nic="eth0",
        ),
        LeaseRecord(lab="x", address="10.0.1.133", network="lan", mac="02:00:00:00:00:09"),
    ]


def test_a_change_of_what_is_served_replaces_no_node() -> None:
    old = spec()
    new = spec(FULL.replace("lease: 12h", "lease: 6h").replace("www:", "ftp:"))
    lan = old.networks[0]
    assert not needs_new_ports(lan, new.networks[0])
    assert needs_new_ports(lan, replace(lan, mtu=1400))
    assert [(c.action, c.kind, c.name) for c in plan_changes(old, new, {"web", "pc"})] == [
        ("update", "network", "lan")
    ]


def test_guests_are_told_who_answers_and_whether_to_ask() -> None:
    lab = spec()
    resolvers = {"lan": Resolver(address="10.0.1.254", domain="office.lab")}
    web = guest_config(lab.node("web"), resolvers=resolvers).decode()
    assert "nameserver 10.0.1.254\nsearch office.lab\n" in web
    assert "dhcp" not in web
    pc = guest_config(lab.node("pc"), resolvers=resolvers).decode()
    assert "dhcp eth0\n" in pc
    assert "nameserver" not in pc, "DHCP tells it"


@pytest.mark.parametrize(
    "answer",
    [None, {}, [1], [{}], [{"name": 1, "hardware-address": "x"}], [{"name": "a"}]],
)
def test_a_guest_may_say_anything_of_its_interfaces(answer: object) -> None:
    assert read_interfaces(answer) == []


def test_a_guests_interfaces_have_addresses_that_others_can_reach() -> None:
    answer = [
        {
            "name": "eth0\x1b",
            "hardware-address": "02:00:00:00:00:0A",
            "ip-addresses": [
                {"ip-address": "10.0.0.1"},
                {"ip-address": "fe80::1"},
                {"ip-address": "127.0.0.1"},
                {"ip-address": 7},
                3,
            ],
        }
    ]
    (found,) = read_interfaces(answer)
    assert (found.name, found.mac, found.addresses) == ("eth0", "02:00:00:00:00:0a", ("10.0.0.1",))
