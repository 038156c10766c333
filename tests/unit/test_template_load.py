"""Properties of `load`: counts, addresses, links and parameters, over many values."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from labd.model.errors import TemplateError
from labd.model.specs import DependsOn, LabSpec
from labd.template import load, parameters

FOLDER = Path(__file__).resolve().parents[2] / "lab-templates"
SHIPPED = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.yaml"))}
SPEC = TypeAdapter(LabSpec)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
LAN = "networks: {lan: {subnet: 10.0.0.0/16}}\n"


@given(st.integers(1, 100))
@settings(max_examples=20, deadline=None)
def test_the_lan_party_has_as_many_players_as_are_set(players: int) -> None:
    spec = load(SHIPPED["lan-party"], "lab.yaml", {"players": str(players)})
    addresses = [ipaddress.ip_interface(node.nics[0].addresses[0]).ip for node in spec.nodes]
    first = ipaddress.ip_address("10.20.0.10")
    assert [node.name for node in spec.nodes] == [f"player-{n + 1}" for n in range(players)]
    assert addresses == [first + n for n in range(players)]
    assert len({node.nics[0].mac for node in spec.nodes}) == players
    assert SPEC.validate_json(SPEC.dump_json(spec)) == spec


@pytest.mark.parametrize("players", ["0", "101", "-1", "999999999999999999"])
def test_the_lan_party_has_a_bound(players: str) -> None:
    with pytest.raises(TemplateError) as caught:
        load(SHIPPED["lan-party"], "lab.yaml", {"players": players})
    assert str(caught.value) == (
        f"lab.yaml:11:12: --set players={players}: "
        f"node player, count: must be 1 to 100, not {players}"
    )


@given(st.integers(1 << 20, 4 << 40))
@settings(max_examples=50, deadline=None)
def test_any_size_is_taken_to_the_byte(size: int) -> None:
    spec = load(SHIPPED["hello"], "lab.yaml", {"memory": f"{size} B"})
    assert spec.nodes[0].memory == size


@given(NAMES)
@settings(max_examples=50, deadline=None)
def test_every_valid_name_may_be_a_name_everywhere(name: str) -> None:
    text = (
        f'name: "{name}"\nnetworks: {{"{name}": {{}}}}\n'
        f'nodes: {{"{name}": {{image: "{name}", nics: {{"{name}": {{network: "{name}"}}}}}}}}\n'
    )
    spec = load(text, "lab.yaml")
    node = spec.nodes[0]
    assert {spec.template, node.name, node.image, node.nics[0].name, node.nics[0].network} == {name}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_parameters_have_descriptions_and_good_defaults(name: str) -> None:
    declared = parameters(SHIPPED[name], name)
    assert all(parameter["description"] for parameter in declared)
    defaults = {str(p["name"]): str(p["default"]) for p in declared}
    assert load(SHIPPED[name], name, defaults) == load(SHIPPED[name], name)


def test_settings_are_part_of_the_spec_and_not_of_its_digest() -> None:
    plain = load(SHIPPED["hello"], "lab.yaml")
    larger = load(SHIPPED["hello"], "lab.yaml", {"memory": "1 GiB"})
    assert plain.parameters == {"memory": "128 MiB"}
    assert larger.parameters == {"memory": "1 GiB"}
    assert plain.digest == larger.digest


def test_mac_addresses_differ_by_template_node_and_nic() -> None:
    node = "{image: tiny, nics: {e0: {network: lan}, e1: {network: lan}}}"
    rest = f"\n{LAN}nodes: {{a: {node}, b: {node}}}\n"
    specs = [load(f"name: {name}{rest}", "lab.yaml") for name in ("one", "two")]
    macs = [nic.mac for spec in specs for node in spec.nodes for nic in node.nics]
    assert len(set(macs)) == len(macs) == 8
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # unicast, locally administered


def test_several_addresses_of_copies_go_up_together() -> None:
    text = (
        "name: a\n" + LAN + "nodes:\n  n:\n    count: 3\n    image: tiny\n"
        '    nics: {e: {network: lan, addresses: [10.0.0.254/16, "fd00::ff/64"]}}\n'
    )
    assert [node.nics[0].addresses for node in load(text, "lab.yaml").nodes] == [
        ("10.0.0.254/16", "fd00::ff/64"),
        ("10.0.0.255/16", "fd00::100/64"),
        ("10.0.1.0/16", "fd00::101/64"),
    ]


def test_a_link_ends_at_one_copy() -> None:
    text = (
        "name: a\nlinks: {cable: {ends: ['n-2:up', 'far:up'], subnet: 10.9.0.0/30, mtu: 9000}}\n"
        "nodes:\n  n: {image: tiny, count: 3}\n"
        "  far: {image: tiny, nics: {up: {address: 10.9.0.2/30}}}\n"
    )
    spec = load(text, "lab.yaml")
    assert [len(node.nics) for node in spec.nodes] == [0, 1, 0, 1]
    assert [spec.node(name).nics[0].network for name in ("n-2", "far")] == ["cable", "cable"]
    assert (spec.networks[0].link, spec.networks[0].mtu) == (True, 9000)


def test_two_links_between_the_same_nodes() -> None:
    text = (
        "name: a\nlinks: {one: {ends: ['a:x', 'b:x']}, two: {ends: ['a:y', 'b:y']}}\n"
        "nodes: {a: {image: tiny}, b: {image: tiny}}\n"
    )
    for node in load(text, "lab.yaml").nodes:
        assert {nic.name: nic.network for nic in node.nics} == {"x": "one", "y": "two"}


def test_a_node_may_be_linked_with_itself() -> None:
    text = "name: a\nlinks: {loop: {ends: ['a:x', 'a:y']}}\nnodes: {a: {image: tiny}}\n"
    assert [nic.name for nic in load(text, "lab.yaml").nodes[0].nics] == ["x", "y"]


def test_a_group_may_wait_for_a_group() -> None:
    text = (
        "name: a\nnodes:\n  web: {image: tiny, count: 2, depends_on: {db: running}}\n"
        "  db: {image: tiny, count: 2}\n"
    )
    for name in ("web-1", "web-2"):
        needs = load(text, "lab.yaml").node(name).depends_on
        assert {need.node: need.condition for need in needs} == {
            "db-1": DependsOn.RUNNING,
            "db-2": DependsOn.RUNNING,
        }


def test_parameters_fit_into_the_midst_of_a_text() -> None:
    text = (
        "name: a\nparameters: {net: {type: integer, default: 7}}\n"
        'networks: {lan: {subnet: "10.${net}.0.0/24"}}\n'
        'nodes: {a: {image: "tiny-${net}", cmdline: "a=${net} b=$${net} c=$net"}}\n'
    )
    spec = load(text, "lab.yaml", {"net": "42"})
    assert spec.networks[0].subnet == "10.42.0.0/24"
    assert (spec.nodes[0].image, spec.nodes[0].cmdline) == ("tiny-42", "a=42 b=${net} c=$net")


@given(st.text(max_size=40).filter(str.isprintable))
@settings(max_examples=100, deadline=None)
def test_a_value_is_never_read_as_yaml_nor_filled_again(value: str) -> None:
    text = (
        "name: a\nparameters: {p: {default: x}, q: {default: y}}\n"
        'nodes: {a: {image: tiny, commands: [[echo, "<${p}>"]]}}\n'
    )
    assert load(text, "lab.yaml", {"p": value}).nodes[0].commands == (("echo", f"<{value}>"),)
    again = load(text, "lab.yaml", {"p": "${q}"})
    assert again.nodes[0].commands == (("echo", "<${q}>"),)


def test_an_empty_section_is_no_section() -> None:
    text = "name: a\nparameters:\nnetworks:\nlinks:\nnodes: {a: {image: tiny, vcpus: }}\n"
    spec = load(text, "lab.yaml")
    assert (spec.networks, spec.parameters, spec.nodes[0].vcpus) == ((), {}, None)


def test_line_ends_of_other_systems_are_no_harm() -> None:
    for name, text in SHIPPED.items():
        plain, windows = load(text, name), load(text.replace("\n", "\r\n"), name)
        assert (windows.nodes, windows.networks) == (plain.nodes, plain.networks)
