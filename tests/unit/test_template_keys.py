"""What is made of the declarations of template keys."""

from __future__ import annotations

from dataclasses import fields

import pytest

from labd.model.errors import TemplateError
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec
from labd.template import load
from labd.template.compile import compile_lab
from labd.template.complaints import check_form
from labd.template.document import Document, Problems
from labd.template.form import LabForm, NodeForm
from labd.template.keys import Effect, bounds, effects, is_bytes, keys
from labd.template.network_form import LinkForm, NetworkForm
from labd.template.node_parts import CloudInitForm, DiskForm, NicForm

_R, _L, _F, _N = Effect.RESTART, Effect.LIVE, Effect.FORK, Effect.NONE


def of(form: type[NodeForm | NetworkForm | NicForm], effect: Effect) -> set[str]:
    return {name for name, found in effects(form).items() if found is effect}


def test_what_a_change_does_is_what_it_always_did() -> None:
    assert of(NodeForm, _L) == {"nics", "disks", "cdrom"}
    assert of(NodeForm, _F) == {"on_fork"}
    calm = {"restart", "depends_on", "ready", "publish", "files", "startup", "count"}
    assert of(NodeForm, _N) == calm
    assert of(NetworkForm, _R) == {"subnet", "mtu"}
    assert of(NetworkForm, _L) == of(NetworkForm, _F) == set()
    assert of(NicForm, _L) == {"down", "sends"}


@pytest.mark.parametrize("form", [NodeForm, NetworkForm, LinkForm, NicForm])
def test_every_key_says_what_a_change_does(form: type[NodeForm]) -> None:
    assert [name for name, _, said in keys(form) if said.effect is None] == []


@pytest.mark.parametrize(("form", "spec"), [(NodeForm, NodeSpec), (NetworkForm, NetworkSpec)])
def test_every_effect_is_one_of_a_field_of_the_spec(
    form: type[NodeForm], spec: type[NodeSpec]
) -> None:
    assert set(effects(form)) - {item.name for item in fields(spec)} <= {"count"}
    assert set(effects(NicForm)) - {item.name for item in fields(NicSpec)} == {"address"}


def test_a_key_that_is_left_out_is_the_default_of_the_spec() -> None:
    data = {"name": "t", "networks": {"lan": {}}, "nodes": {"a": {"image": "tiny"}}}
    document, problems = Document(data=data), Problems("t.yaml")
    spec = compile_lab(check_form(document, problems), document, problems, digest="")
    assert not problems
    assert spec == LabSpec(
        template="t",
        nodes=(NodeSpec(name="a", image="tiny"),),
        networks=(NetworkSpec(name="lan"),),
    )


def test_a_plan_shows_sizes_as_such_and_long_texts_by_a_digest() -> None:
    given = [(form, *item) for form in (NodeForm, DiskForm, CloudInitForm) for item in keys(form)]
    assert {name for _, name, field, _ in given if is_bytes(field)} == {"memory", "disk", "size"}
    long = {"cloud_init", "user_data", "meta_data", "network_config"}
    assert {name for _, name, _, said in given if said.long} == long


def test_bounds_are_found_wherever_they_are_declared() -> None:
    found = {name: bounds(field) for name, field, _ in keys(NodeForm)}
    assert (found["count"], found["vcpus"], found["memory"]) == ((1, 100), (1, 64), None)
    assert {name for name, field, _ in keys(LabForm) if bounds(field)} == set()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("dhcp: {leese: 1h}", "unknown key 'leese' in network lan, dhcp; did you mean 'lease'?"),
        ("dns: {domian: a}", "unknown key 'domian' in network lan, dns; did you mean 'domain'?"),
        (
            "allow: [{to: host, tpc: [80]}]",
            "unknown key 'tpc' in network lan, allow, entry 1; did you mean 'tcp'?",
        ),
    ],
)
def test_an_unknown_key_is_compared_with_those_of_its_own_place(line: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        load(f"name: a\nnetworks: {{lan: {{{line}}}}}\nnodes: {{a: {{image: tiny}}}}\n", "t")
    assert says in str(caught.value)
