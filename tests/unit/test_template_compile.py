"""What templates become: the shipped ones as golden specs, and each feature by itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from labd.model.names import stable_mac
from labd.model.specs import (
    Accel,
    BootDevice,
    Dependency,
    DependsOn,
    DiskBus,
    DiskSpec,
    Display,
    Firmware,
    Gateway,
    LabSpec,
    Machine,
    NetworkSpec,
    NicModel,
    NicSpec,
    NodeSpec,
    PublishSpec,
    Readiness,
    RestartMode,
    RestartPolicy,
    RouteSpec,
)
from labd.template import load, parameters, schema

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "lab-templates").glob("*.yaml"))
GOLDEN = Path(__file__).parent / "golden"
SPEC = TypeAdapter(LabSpec)

FULL = """name: full
description: |
  Everything that
  can be said.
parameters:
  port: {type: integer, default: 22}
  release: {type: string, default: 1.10}
  routed: {type: boolean, default: true}
networks:
  lan:
    {subnet: 10.0.0.0/24, mtu: 1400, uplink: nat, gateway: labd, gateway_address: 10.0.0.254}
  plain:
links:
  trunk: {ends: [gate:eth1, "far:eth9"], subnet: 10.1.0.0/30}
nodes:
  gate:
    image: tiny
    vcpus: 2
    memory: 1.5 GiB
    disk: 4 GiB
    disks: {data: {size: 1 GiB}, more: {size: 2G, bus: scsi}}
    disk_bus: ide
    firmware: uefi
    machine: pc
    display: vnc
    boot: [network, disk]
    accel: tcg
    restart: {limit: 3, window: 10m}
    cmdline: quiet release=${release}
    forwarding: ${routed}
    nics:
      eth1: {address: 10.1.0.1/30, model: e1000}
      eth0:
        network: lan
        addresses: [10.0.0.9/24, "fd00::1/64"]
        gateway: 10.0.0.1
        mac: 02:00:00:00:00:0A
    routes: [{to: 10.9.0.0/16, via: 10.1.0.2}, {to: default, via: "fd00::2"}]
    commands: ["echo 'a b' c", [sh, -c, 'echo $${HOME} ${release}']]
    depends_on: {far: running}
    ready: {tcp: "${port}", timeout: 90}
  far: {profile: small, restart: always, ready: agent}
"""


def one(line: str, **changes: str) -> NodeSpec:
    text = f"name: a\nnetworks: {{lan: {{}}}}\nnodes:\n  n:\n    image: tiny\n    {line}\n"
    return load(text, "lab.yaml", changes).nodes[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_a_shipped_template_compiles_to_its_golden_spec(path: Path) -> None:
    text = path.read_text()
    spec = load(text, path.name)
    assert spec.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    golden = (GOLDEN / f"template-{path.stem}.json").read_bytes()
    assert SPEC.dump_json(replace(spec, digest=""), indent=1) + b"\n" == golden


def test_templates_are_shipped_under_their_own_names() -> None:
    names = {"bootsector", "hello", "lan-party", "two-tier"}
    exercises = {
        "broken-network",
        "dev-box",
        "dhcp-dns",
        "nat-firewall",
        "ospf-triangle",
        "web-stack",
    }
    assert names | exercises == {path.stem for path in SHIPPED}
    assert all(path.with_suffix(".md").is_file() for path in SHIPPED if path.stem in exercises)
    assert [load(p.read_text(), p.name).template for p in SHIPPED] == [p.stem for p in SHIPPED]


def test_a_drive_has_a_cd_or_is_empty() -> None:
    assert one("cdrom: empty").cdrom == ""
    assert one("cdrom: debian").cdrom == "debian"
    assert one("").cdrom is None


def test_every_field_can_be_said() -> None:
    spec = load(FULL, "lab.yaml")
    assert spec.description == "Everything that can be said."
    assert spec.parameters == {"port": "22", "release": "1.10", "routed": "true"}
    assert spec.networks == (
        NetworkSpec(
            name="lan",
            subnet="10.0.0.0/24",
            mtu=1400,
            uplink="nat",
            gateway=Gateway.LABD,
            gateway_address="10.0.0.254",
        ),
        NetworkSpec(name="plain"),
        NetworkSpec(name="trunk", link=True, subnet="10.1.0.0/30"),
    )
    assert spec.node("gate") == NodeSpec(
        name="gate",
        image="tiny",
        vcpus=2,
        memory=3 << 29,
        disk=4 << 30,
        disks=(
            DiskSpec(name="data", size=1 << 30, bus=DiskBus.IDE),
            DiskSpec(name="more", size=2 << 30, bus=DiskBus.SCSI),
        ),
        disk_bus=DiskBus.IDE,
        firmware=Firmware.UEFI,
        machine=Machine.PC,
        display=Display.VNC,
        boot=(BootDevice.NETWORK, BootDevice.DISK),
        accel=Accel.TCG,
        restart=RestartPolicy(mode=RestartMode.ON_FAILURE, limit=3, window=600.0),
        cmdline="quiet release=1.10",
        nics=(
            NicSpec(
                name="eth1",
                network="trunk",
                mac=stable_mac("full", "gate", "eth1"),
                addresses=("10.1.0.1/30",),
                model=NicModel.E1000,
            ),
            NicSpec(
                name="eth0",
                network="lan",
                mac="02:00:00:00:00:0a",
                addresses=("10.0.0.9/24", "fd00::1/64"),
                gateway="10.0.0.1",
            ),
        ),
        routes=(
            RouteSpec(to="10.9.0.0/16", via="10.1.0.2"),
            RouteSpec(to="default", via="fd00::2"),
        ),
        forwarding=True,
        commands=(("echo", "a b", "c"), ("sh", "-c", "echo ${HOME} 1.10")),
        depends_on=(Dependency(node="far", condition=DependsOn.RUNNING),),
        ready=Readiness(tcp_port=22, timeout=90.0),
    )
    assert spec.node("far") == NodeSpec(
        name="far",
        profile="small",
        restart=RestartPolicy(mode=RestartMode.ALWAYS),
        nics=(NicSpec(name="eth9", network="trunk", mac=stable_mac("full", "far", "eth9")),),
        ready=Readiness(agent=True),
    )


def test_a_counted_node_is_repeated() -> None:
    spec = load(
        """name: a
parameters: {players: {type: integer, default: 2}}
networks: {lan: {subnet: 10.0.0.0/24}, "own": {}}
nodes:
  player:
    count: ${players}
    image: tiny
    nics:
      eth0: {network: lan, address: 10.0.0.9/24, gateway: 10.0.0.1}
      eth1: {network: own, address: "10.${index}.0.1/24", mac: "02:00:00:00:00:0${index}"}
    commands: [[echo, "${index}", "I am player-${index}"]]
  judge: {image: tiny, depends_on: {player: running}}
  crowd: {image: tiny, depends_on: [player, judge]}
""",
        "lab.yaml",
        {"players": "3"},
    )
    players = spec.nodes[:3]
    assert [node.name for node in spec.nodes] == [
        *("player-1", "player-2", "player-3"),
        *("judge", "crowd"),
    ]
    assert [[nic.addresses for nic in node.nics] for node in players] == [
        [(f"10.0.0.{8 + n}/24",), (f"10.{n}.0.1/24",)] for n in (1, 2, 3)
    ]
    assert [node.nics[0].gateway for node in players] == ["10.0.0.1"] * 3
    assert len({nic.mac for node in players for nic in node.nics}) == 6
    assert players[2].commands == (("echo", "3", "I am player-3"),)
    assert [d.node for d in spec.node("judge").depends_on] == ["player-1", "player-2", "player-3"]
    assert [(d.node, str(d.condition)) for d in spec.node("crowd").depends_on] == [
        *(("player-1", "ready"), ("player-2", "ready"), ("player-3", "ready")),
        ("judge", "ready"),
    ]


def test_a_count_of_one_is_still_a_group() -> None:
    spec = load("name: a\nnodes: {n: {image: tiny, count: 1}}", "lab.yaml")
    assert [node.name for node in spec.nodes] == ["n-1"]


@pytest.mark.parametrize("word", ["no", "off", "n", "yes", "on", "y"])
def test_norway_is_a_name(word: str) -> None:
    spec = load(f"name: {word}\nnodes: {{{word}: {{image: {word}}}}}\n", "lab.yaml")
    assert (spec.template, spec.nodes[0].name, spec.nodes[0].image) == (word, word, word)


def test_scalars_are_those_of_yaml_1_2() -> None:
    assert one("vcpus: 010").vcpus == 10  # eight in YAML 1.1
    assert one("vcpus: 0o10").vcpus == 8
    assert one("vcpus: 0x10").vcpus == 16
    assert one("nics: {eth0: {network: lan, mac: 12:34:56:00:00:00}}").nics[0].mac == (
        "12:34:56:00:00:00"  # a number in base sixty in YAML 1.1
    )


def test_a_byte_order_mark_is_no_harm() -> None:
    assert load("\ufeffname: a\nnodes: {n: {image: tiny}}", "lab.yaml").template == "a"


def test_two_copies_of_a_template_have_the_same_addresses() -> None:
    first, second = (load(FULL, name, {"port": "80"}) for name in ("one.yaml", "two.yaml"))
    assert first == second


def test_ipv4_subnets_of_two_hosts_have_no_broadcast_address() -> None:
    line = "nics: {eth0: {network: lan, address: 10.0.0.0/31, gateway: 10.0.0.1}}"
    assert one(line).nics[0].addresses == ("10.0.0.0/31",)


def test_a_microvm_with_disks_and_nics() -> None:
    node = one("machine: microvm\n    disks: {d: {size: 1 GiB}}\n    nics: {e: {network: lan}}")
    assert (node.machine, len(node.disks), len(node.nics)) == (Machine.MICROVM, 1, 1)


def test_parameters_are_listed() -> None:
    text = (
        "name: a\nparameters:\n  size: {type: size, default: 1 GiB, description: How large}\n"
        "  way: {type: choice, choices: [up, 1.0]}\nnodes: {}\n"
    )
    assert parameters(text, "lab.yaml") == [
        {
            "name": "size",
            "type": "size",
            "default": "1 GiB",
            "description": "How large",
            "choices": [],
        },
        {
            "name": "way",
            "type": "choice",
            "default": None,
            "description": "",
            "choices": ["up", "1.0"],
        },
    ]


def test_a_large_lab_compiles() -> None:
    groups = "".join(
        f"  g{n}: {{image: tiny, count: 100, nics: {{eth0: {{network: lan, address: "
        f"10.{n}.0.1/8}}}}}}\n"
        for n in range(5)
    )
    spec = load(f"name: a\nnetworks: {{lan: {{subnet: 10.0.0.0/8}}}}\nnodes:\n{groups}", "f")
    assert len(spec.nodes) == 500


def test_a_long_chain_of_dependencies_compiles() -> None:
    nodes = "".join(
        f"  n{n}: {{image: tiny, depends_on: {{n{n + 1}: ready}}}}\n" for n in range(400)
    )
    spec = load(f"name: a\nnodes:\n{nodes}  n400: {{image: tiny}}\n", "lab.yaml")
    assert len(spec.nodes) == 401


# The JSON Schema


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_shipped_schema_is_current() -> None:
    shipped = (ROOT / "lab-templates" / "schema.json").read_text()
    assert shipped == json.dumps(schema(), indent=2) + "\n", (
        "write it anew: `lab template schema` prints it"
    )


def test_the_schema_is_one() -> None:
    jsonschema_rs.meta.validate(schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_a_shipped_template_names_and_fits_the_schema(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=./schema.json\n")
    jsonschema_rs.Draft202012Validator(schema()).validate(plain(text))


def test_the_schema_knows_all_that_can_be_said() -> None:
    data = plain(FULL)
    jsonschema_rs.Draft202012Validator(schema()).validate(data)


@pytest.mark.parametrize(
    "text",
    [
        "nodes: {a: {image: tiny}}",
        "name: a",
        "name: A\nnodes: {a: {image: tiny}}",
        "name: a\nnodes: {A: {image: tiny}}",
        "name: a\nnodes: {a: {}}",
        "name: a\nnodes: {a: {image: tiny, memory: 128}}",
        "name: a\nnodes: {a: {image: tiny, vcpus: 0}}",
        "name: a\nnodes: {a: {image: tiny, machine: xen}}",
        "name: a\nnodes: {a: {image: tiny, qemu: -snapshot}}",
        "name: a\nnodes: {a: {image: tiny, restart: perhaps}}",
        "name: a\nparameters: {n: {type: int}}\nnodes: {a: {image: tiny}}",
        "name: a\nlinks: {l: {ends: [a]}}\nnodes: {a: {image: tiny}}",
    ],
)
def test_the_schema_refuses_what_labd_refuses(text: str) -> None:
    assert not jsonschema_rs.Draft202012Validator(schema()).is_valid(plain(text))


def test_publish() -> None:
    line = 'nics: {e: {network: lan}}\n    publish: ["8080:80", "0:22", "[::]:8443:443", "0:23"]'
    assert one(line).publish == (
        PublishSpec(port=80, host_port=8080),
        PublishSpec(port=22),
        PublishSpec(port=443, address="::", host_port=8443),
        PublishSpec(port=23),
    )


def test_copies_publish_at_ports_of_their_own() -> None:
    text = """name: a
networks: {lan: {}}
nodes:
  n: {image: tiny, count: 2, nics: {e: {network: lan}}, publish: ["808${index}:80", "0:22"]}
"""
    spec = load(text, "lab.yaml")
    assert [node.publish[0].host_port for node in spec.nodes] == [8081, 8082]
