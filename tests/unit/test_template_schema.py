"""The JSON Schema and the program agree on what a template may say.

Each key of each form is given values of all kinds, by its declaration. Two things differ by nature,
so none is drawn: JSON Schema takes `2.0` for the whole number 2, and it cannot tell whether quotes
in a command are closed. References and the like are not the shape's business, see `SEMANTIC`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from labd.template import schema
from labd.template.compile import compile_lab
from labd.template.complaints import check_form
from labd.template.document import Problems, read
from labd.template.expand import expand
from labd.template.file_form import FileForm
from labd.template.form import LabForm, NodeForm
from labd.template.keys import sections
from labd.template.network_form import AllowForm, LinkForm
from labd.template.node_parts import DiskForm, RouteForm
from labd.template.schema import whole_pattern

Path = tuple[str | int, ...]
VALIDATOR = jsonschema_rs.Draft202012Validator(schema())
# What each form cannot be without.
MINIMAL: dict[type[BaseModel], dict[str, Any]] = {
    LabForm: {"name": "t", "nodes": {"a": {"image": "tiny"}}},
    NodeForm: {"image": "tiny"},
    LinkForm: {"ends": ["a:eth1", "b:eth1"]},
    AllowForm: {"to": "host"},
    DiskForm: {"size": "1 GiB"},
    RouteForm: {"to": "default", "via": "10.0.0.1"},
    FileForm: {},
}
# What `compile` tells and the schema has, too; all else that it tells is of the meaning.
SHAPE_WORDS = ("needs the key 'image' or 'profile'", "has exactly two ends", "is too long")


def places(form: type[BaseModel] = LabForm, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield where a form is in a template, and each of its keys."""
    inside = sections(form)
    for name in form.model_fields:
        yield at, name
        if name in inside:
            section = inside[name]
            entry: Path = ("/a",) if section.form is FileForm else ("a",)
            many = entry if section.many else ()
            yield from places(section.form, (*at, name, *many))


PLACES = [place for place in places() if place != ((), "parameters")]


def put(data: dict[str, Any], at: Path) -> dict[str, Any]:
    """Have what is around a place, with all that it cannot be without; return it."""
    form: type[BaseModel] = LabForm
    parts = list(at)
    here = data
    while parts:
        name = str(parts.pop(0))
        section = sections(form)[name]
        form = section.form
        made = copy.deepcopy(MINIMAL.get(form, {}))
        if not section.many:
            here = here.setdefault(name, made)
        elif name in {"routes", "allow"}:
            parts.pop(0)
            here = here.setdefault(name, [made])[0]
        else:
            here = here.setdefault(name, {}).setdefault(str(parts.pop(0)), made)
    return here


def is_taken(data: dict[str, Any]) -> bool:
    """True if the program finds nothing wrong with the shape of a template."""
    problems = Problems("t.yaml")
    document = read(json.dumps(data), problems)
    if not problems:
        expand(document, {}, problems)
    if not problems:
        form = check_form(document, problems)
        if not problems:
            compile_lab(form, document, problems, digest="")
            return not any(word in item.message for item in problems for word in SHAPE_WORDS)
    return False


WORDS = [
    *("", "a", "tiny", "A", "a-1", "host", "default", "agent", "ready", "running", "none", "no"),
    *("up", "down", "true", "false", "yes", "on-failure", "always", "q35", "bios", "uefi", "vnc"),
    *("virtio", "scsi", "e1000", "disk", "auto", "labd", "mac", "address", "dhcp", "0", "1", "80"),
    *("+80", "-1", "-0", "0080", "64", "65", "100", "101", "4094", "4095", "575", "576", "9216"),
    *("9217", "65535", "65536", "1000", "1001", "1.0", "1e3", "256 MiB", "1G", "1.5 GiB", "10 GB"),
    *("90s", "5m", "2h30m", "m5", "1.5", "10mbit", "10", "0.5 Gbit", "20ms", "1us", "1%", "100%"),
    *("101%", "0.25", "050", "NONE", "bridge:eth0", "a:eth0", "10.0.0.0/24", "/etc/motd", "etc"),
    *("0755", "755", "8", "sh -c x", "a|b", "a;b", " ", "x" * 33, "x" * 1025),
]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(WORDS),
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.integers(-1000, 100_500).filter(lambda n: n % 1000).map(lambda n: n / 1000),
    st.from_regex(r"\A[+-]?[0-9]{1,6}\Z"),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["a", "A", "/a", "b", "to", "size", "mode"]), SCALARS),
    st.sampled_from([["x"] * 64, ["x"] * 65, [["x"]] * 65, {f"a{n}": "1" for n in range(65)}]),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), VALUES, st.sampled_from(["", "", "", "unknown", "image", "name"]))
def test_schema_and_program_take_the_same(place: tuple[Path, str], value: Any, less: str) -> None:
    at, key = place
    data = copy.deepcopy(MINIMAL[LabForm])
    holder = put(data, at)
    if less == "unknown":
        holder[less] = 1
    holder.pop(less if less != key else "", None)
    holder[key] = value
    assert VALIDATOR.is_valid(data) == is_taken(data), data


@pytest.mark.parametrize(
    "place", PLACES, ids=lambda place: ".".join(map(str, (*place[0], place[1])))
)
def test_a_key_that_must_be_there_is_missed_by_both(place: tuple[Path, str]) -> None:
    at, key = place
    data = copy.deepcopy(MINIMAL[LabForm])
    put(data, at).pop(key, None)
    assert VALIDATOR.is_valid(data) == is_taken(data)


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(-5, 80_000))
def test_the_pattern_of_a_number_in_quotes_has_its_bounds(a: int, b: int, number: int) -> None:
    least, most = sorted((a, b))
    pattern = whole_pattern({"minimum": least, "maximum": most})
    check = jsonschema_rs.Draft202012Validator({"pattern": pattern})
    for text in (str(number), f"+0{number}"):
        assert check.is_valid(text) == (least <= number <= most and "+0-" not in text)
