"""Names, templates, rosters and manifests: nothing that a person writes changes what is planned."""

from __future__ import annotations

import copy
import itertools
import json
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from labd.cli.roster import parse_roster
from labd.drivers.network.linux.guards import guard_rules
from labd.drivers.network.linux.plan import plan
from labd.model.errors import InputError, TemplateError
from labd.model.images import ImageFormat
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.specs import LabSpec
from labd.template import load
from labd.template.recheck import check_spec
from tests import disks as files
from tests.unit.api_server import openapi
from tests.unit.test_argv import FDS, PLAIN, build

FULL = """\
name: full
description: everything that has a name
chapters: [one]
networks:
  lan: {subnet: 10.0.0.0/24, subnet6: "fd00:1::/64", uplink: nat, port_security: address,
        trusted: ["a:eth2"], allow: [{to: host, tcp: [80]}, {to: 192.0.2.0/24, udp: [53]}],
        dhcp: {range: [10.0.0.100, 10.0.0.120], options: {ntp-server: 10.0.0.9, domain-name: x}},
        dns: {domain: lab.test, records: {www: 10.0.0.5}}}
  office: {uplink: "bridge:br0", vlan: 20}
links:
  wire: {ends: ["a:eth1", "b:eth1"], subnet: 10.9.0.0/24}
nodes:
  a:
    image: tiny
    cdrom: disc
    cmdline: quiet
    disks: {data: {size: 1 GiB}}
    nics: {eth0: {network: lan, address: 10.0.0.10/24}, eth1: {address: 10.9.0.1/24},
           eth2: {network: lan}, eth3: {network: office}}
    routes: [{to: 10.8.0.0/16, via: 10.9.0.2}]
    ready: {console: "ready:"}
    publish: ["2222:22"]
    files: {/etc/motd: {content: hello, mode: "0644"}}
    commands: [[uptime]]
    startup: [[uptime]]
    on_fork: [[uptime]]
    cloud_init: {user_data: {a: b}, meta_data: {a: b}, network_config: {version: 2}}
  b: {profile: small, depends_on: [a], nics: {eth0: {network: lan, address: dhcp}}}
"""
SPEC: TypeAdapter[LabSpec] = TypeAdapter(LabSpec)
BAD = ("a,b", "a\nb", 'a"b', "a;b}", "../a", "::1%x\nadd rule", "x" * 300)
# What goes to the guest or to people alone, and the one pattern that labd itself matches.
FREE = re.compile(
    r"description|digest|parameters|nodes\.\d+\.(cmdline|commands|files|startup|on_fork|cloud_init"
    r"|ready\.(console|command))"
)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the place of each text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif isinstance(value, str):
        yield path


def planned(spec: LabSpec) -> object:
    made = plan(spec, "labkey", "0badcafe", {node.name: f"k{node.name}" for node in spec.nodes})
    return made, guard_rules(made.guards)


def test_no_text_of_a_foreign_spec_reaches_a_plan_unless_it_has_its_form() -> None:
    """What nftables, dnsmasq and QEMU are told is made of them (manifests of checkpoints)."""
    spec = load(FULL, "full.yaml")
    check_spec(spec)
    data = json.loads(SPEC.dump_json(spec))
    places = list(leaves(data))
    assert len(places) > 90
    tried = 0
    for place in places:
        name = ".".join(map(str, place))
        for bad in BAD:
            changed = copy.deepcopy(data)
            at = changed
            for part in place[:-1]:
                at = at[part]
            at[place[-1]] = bad
            tried += 1
            try:
                found = SPEC.validate_python(changed)
                check_spec(found)
            except (ValidationError, InputError):
                continue
            assert FREE.match(name), f"{name} = {bad!r} is let in"
            assert planned(found) == planned(spec), f"{name} = {bad!r} changes the plan"
    assert tried == len(places) * len(BAD)


def test_no_name_in_a_template_takes_a_comma_or_a_line() -> None:
    """Each text and key of a template is put in quotes with what would end a word elsewhere."""
    words = sorted(set(re.findall(r"[A-Za-z0-9/][A-Za-z0-9:./-]*", FULL)))
    spec = load(FULL, "full.yaml")
    base = planned(spec)
    refused = 0
    for word in words:
        for bad in (f"{word},x=y", f"{word}\\nx"):
            whole = rf'(?<![\w:./-])"?{re.escape(word)}"?(?![\w:./-])'
            text = re.sub(whole, lambda _, bad=bad: f'"{bad}"', FULL, count=1)  # type: ignore[misc]
            try:
                found = load(text, "full.yaml")
            except TemplateError as error:
                refused += 1
                assert all("\n" not in problem.message for problem in error.problems)
                continue
            assert planned(found) == base, f"{bad!r} changes the plan"
    assert refused > len(words)


SOME = Path("/s/d.qcow2")
MACHINE = replace(
    PLAIN,
    disks=(Disk(id="disk0", ref=files.at(SOME), format=ImageFormat.QCOW2, serial="root"),),
    nics=(Nic(id="n0", mac="02:00:00:00:00:01"),),
    kernel=Path("/s/kernel"),
    cmdline="quiet",
)
ANY = st.text(min_size=1, max_size=40) | st.sampled_from(BAD)
_JSON = ("-object", "-blockdev", "-netdev", "-device")


def with_kernel(machine: MachineSpec) -> list[str]:
    return build(machine, replace(FDS, kernel=14))


@settings(max_examples=300, deadline=None)
@given(lab=ANY, node=ANY, cmdline=ANY, serial=ANY, mac=ANY, kind=ANY, path=ANY)
def test_argv_depends_on_the_schema_only(
    lab: str, node: str, cmdline: str, serial: str, mac: str, kind: str, path: str
) -> None:
    """Even past every check, a value stays in its JSON, or in a word of its own."""
    base = with_kernel(MACHINE)
    named = files.at(Path("/s") / path.replace("\0", ""))
    machine = replace(
        MACHINE,
        lab=lab,
        node=node,
        cmdline=cmdline,
        disks=(replace(MACHINE.disks[0], serial=serial, ref=named),),
        nics=(replace(MACHINE.nics[0], mac=mac),),
    )
    try:
        made = with_kernel(machine)
    except InputError:
        made = with_kernel(replace(machine, lab="web", node="server", cmdline="quiet"))
    shown = dict(itertools.pairwise(made))
    assert shown["-name"].count(",") == 1
    if "-append" not in shown:  # an empty one is not said
        made += ["-append", ""]
        at = base.index("-append")
        base = [*base[:at], *base[at + 2 :], "-append", ""]
    assert len(made) == len(base)
    for before, ours, word in zip(base[:1] + base, base, made, strict=False):
        if before in _JSON:
            assert json.loads(word).keys() == json.loads(ours).keys()
        elif before not in ("-name", "-append"):
            assert word == ours


# Bombs: a small text that would stand for much. Each has its time and memory measured.

_ANCHORS = (
    "bomb.yaml:1:4: anchors and aliases (& and *) are not allowed; write a parameter or repeat it"
)
_DEEP = "nested too deeply; a template needs no more than a few levels"
BOMBS: dict[str, tuple[str, str]] = {
    "a billion laughs": (
        "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)),
        _ANCHORS,
    ),
    "an alias of itself": ("a: &a [*a]\n", _ANCHORS),
    "merge keys": ("<<: {name: x}\n", "bomb.yaml:1:1: merge keys (<<) are not allowed; repeat it"),
    "100,000 levels": ("a: " + "[" * 100_000, f"bomb.yaml:1:19: {_DEEP}"),
    "100,000 levels of mappings": ("{a: " * 20_000, f"bomb.yaml:1:62: {_DEEP}"),
    "a megabyte": ("a: " + "x" * (1 << 20), "bomb.yaml:1:1: the template is larger than 256 KiB"),
    "a tag that constructs": (
        "a: !!python/object/apply:os.system [id]\n",
        "bomb.yaml:1:4: tag 'tag:yaml",
    ),
    "a number of 100,000 digits": (
        f"name: {'9' * 100_000}\nnodes: {{a: {{image: x}}}}\n",
        "bomb.yaml:1:7: name",
    ),
    "a node 10^9 times": (
        "name: b\nnodes: {a: {image: x, count: 1000000000}}\n",
        "bomb.yaml:2:30: node a, count: must be 1 to 100, not 1",
    ),
    "500 nodes 100 times": (
        "name: b\nnodes:\n" + "".join(f"  n{n}: {{image: x, count: 100}}\n" for n in range(500)),
        "bomb.yaml:2:1: a lab has at most 500 nodes, not 50000; split the lab",
    ),
    "parameters in parameters": (
        "name: b\nparameters: {p: {type: string, default: "
        + "x" * 1000
        + "}}\nnodes: {a: {image: tiny, cmdline: '"
        + "${p}" * 5000
        + "'}}\n",
        "bomb.yaml:3:35: is longer than 4096 characters; write less",
    ),
    "a pattern that takes for ever": (
        "name: b\nnodes: {a: {image: x, ready: {console: '(a+)+$'}}}\n",
        "bomb.yaml:2:40: node a: ready console: a group that repeats or branches cannot be repeat",
    ),
    "a NUL": ("name: b\0\n", "bomb.yaml:1:8: the character U+0000 is not allowed"),
    "half a character": ("name: \ud800\n", "bomb.yaml:1:7: the character U+D800 is"),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_told_with_little_memory(name: str) -> None:
    text, says = BOMBS[name]
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TemplateError) as caught:
        load(text, "bomb.yaml")
    first = str(caught.value).splitlines()[0]
    assert first.startswith(says), first
    assert len(first) < 300
    assert time.process_time() - begin < 20  # of CPU; the slowest takes one
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 << 10  # KiB


ROSTERS: dict[str, tuple[str, str]] = {
    "a comma in quotes": ('name\n"a,b"\n', "r.csv:2: student name 'a,b' is not valid: "),
    "a line in quotes": ('name\n"a\nb"\n', "r.csv:3: student name 'a\\nb' is not valid: "),
    "a path": ("name\n../x\n", "r.csv:2: student name '../x' is not valid: "),
    "a formula": ("name\n=cmd()\n", "r.csv:2: student name '=cmd()' is not valid: "),
    "a setting with a line": ('name,s\na,"x\ny"\n', "r.csv:3: column s has a character that"),
    "a column of commas": ('name,"a,b"\nx,y\n', "r.csv:1: column 'a,b' cannot be a parameter: "),
    "a quote that never ends": ('name\n"a\n', "r.csv:2: this is no CSV: "),
    "a cell of a megabyte": (f"name\n{'x' * (1 << 20)}\n", "r.csv:2: this is no CSV: field larger"),
    "twice": ("name\na\na\n", "r.csv:3: student a is in line 2 already"),
    "NUL": ("name\na\0\n", "r.csv:2: "),
}


@pytest.mark.parametrize("name", sorted(ROSTERS))
def test_a_hostile_roster_is_told_with_its_line(name: str) -> None:
    text, says = ROSTERS[name]
    with pytest.raises(InputError) as caught:
        parse_roster(text, "r.csv")
    assert caught.value.message.startswith(says), caught.value.message
    assert "\n" not in caught.value.message


def test_every_name_in_the_api_has_a_pattern_and_every_text_an_end() -> None:
    """Each path parameter and each text of a request, as the OpenAPI document has them."""
    document = openapi()
    fields = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                fields.append((f"{method} {path} {parameter['name']}", parameter["schema"]))
                if parameter["in"] == "path":
                    schema = parameter["schema"]
                    assert "pattern" in schema or schema.get("type") == "integer", path
    bodies = {name for name in document["components"]["schemas"] if _is_sent(document, name)}
    for name in sorted(bodies):
        for field, schema in document["components"]["schemas"][name].get("properties", {}).items():
            fields.append((f"{name}.{field}", schema))
    endless = []
    for name, schema in fields:
        for kind in schema.get("anyOf", [schema]):
            if kind.get("type") != "string" or {"enum", "const"} & kind.keys():
                continue
            if "pattern" in kind:
                fits = re.compile(kind["pattern"].replace("$", r"\Z")).match
                assert not any(fits(bad) for bad in BAD[:5]) or "maxLength" in kind, name
            elif "maxLength" not in kind:
                endless.append(name)
    assert len(fields) > 100
    assert endless == []


def _is_sent(document: dict[str, Any], name: str) -> bool:
    """Tell whether a schema is (part of) a request's body."""
    wanted = f'"#/components/schemas/{name}"'
    return any(
        wanted in json.dumps(operation.get("requestBody", {}))
        for methods in document["paths"].values()
        for operation in methods.values()
    )
