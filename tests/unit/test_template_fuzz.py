"""Whatever is given to `load`, only TemplateError comes out, with places inside the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from labd.model.errors import TemplateError
from labd.model.specs import LabSpec, Readiness, RestartPolicy
from labd.template import load, parameters
from labd.template.form import LabForm, NodeForm
from labd.template.network_form import LinkForm, NetworkForm
from labd.template.node_parts import DiskForm, NicForm, ReadyForm, RestartForm, RouteForm
from labd.template.patterns import trouble

SHIPPED = [
    path.read_text()
    for path in sorted((Path(__file__).resolve().parents[2] / "lab-templates").glob("*.yaml"))
]
SPEC = TypeAdapter(LabSpec)

# Words that mean something somewhere, and values that break somewhere.
KEYS = sorted(
    {
        field
        for form in (
            *(LabForm, NetworkForm, LinkForm, NodeForm, NicForm),
            *(DiskForm, RouteForm, RestartForm, ReadyForm),
        )
        for field in form.model_fields
    }
    | {"type", "default", "choices", "a", "b", "a-1", "index", "<<", "A", "", "x" * 40, "é\n"}
)
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, 1, 2, -1, 101, 10**30, 1.5, 1e300, "", "a", "b", "tiny"),
            *("a:eth0", "b:eth0", "ready", "agent", "q35", "microvm", "ide", "integer", "size"),
            *("1 GiB", "90s", "10.0.0.0/24", "10.0.0.1/24", "10.0.0.1", "fd00::1/64", "default"),
            *("255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "0.0.0.0/0"),
            *("02:00:00:00:00:01", "${a}", "${index}", "${", "$${", "${}", "(a+)+", "[[a]", "\0"),
            *("bridge:eth0", "sha256:" + "0" * 64, "x" * 5000, "1e999", ".nan", "\u2028", "'"),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
NODE = st.fixed_dictionaries(
    {"image": st.just("tiny")},
    optional={
        **{field: NESTED for field in NodeForm.model_fields if field not in {"image", "nics"}},
        "nics": st.dictionaries(
            st.sampled_from(["eth0", "eth1"]),
            st.fixed_dictionaries({}, optional=dict.fromkeys(NicForm.model_fields, SCALARS)),
        ),
        "count": st.sampled_from([0, 1, 2, 100, "${a}"]),
    },
)
LINK = st.fixed_dictionaries({"ends": st.lists(SCALARS, min_size=2, max_size=2)})
SHAPED = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", 5]),
        "nodes": st.dictionaries(st.sampled_from(["a", "b", "a-1", "ready"]), NODE),
    },
    optional={
        "parameters": st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=3),
        "networks": NESTED,
        "links": st.dictionaries(st.sampled_from(["l", "eth0"]), LINK),
    },
)


def survives(text: str, given_settings: dict[str, str] | None = None) -> None:
    try:
        spec = load(text, "lab.yaml", given_settings)
    except TemplateError as error:
        assert error.problems
        assert str(error).count("\n") == len(error.problems) - 1
        lines = [*text.splitlines(), "", ""]
        for problem in error.problems:
            assert problem.message.isprintable()
            assert 1 <= problem.line <= len(lines) or error.file == "--set"
            assert problem.column >= 1
    else:
        assert SPEC.validate_json(SPEC.dump_json(spec)) == spec


@settings(deadline=None)
@given(st.text(alphabet=st.characters(), max_size=200))
@example("\ud800")
@example("a: \x85b\n\u2028c: [")
@example("? ")
@example("- ? : -")
def test_any_text(text: str) -> None:
    survives(text)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *("name: a\n", "nodes:\n", "  a:", "  ", "\n", "image: tiny", "{", "}", "[", "]"),
                *("- ", ": ", "? ", "&x ", "*x", "!t ", "|\n", ">-\n", "'", '"', "#", ",", "\t"),
                *("---\n", "...\n", "%YAML 1.1\n", "<<", "${a}", "~", "0x", "é", "\\", "\r", "@"),
            ]
        ),
        max_size=25,
    )
)
def test_any_pieces_of_yaml(pieces: list[str]) -> None:
    survives("".join(pieces))


@settings(deadline=None)
@given(st.sampled_from(SHIPPED), st.data())
def test_shipped_templates_with_mistakes(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 8)))
        text = text[:start] + data.draw(st.text(max_size=4)) + text[end:]
    survives(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(SHAPED, NESTED), st.dictionaries(st.sampled_from(KEYS), st.text(max_size=9)))
def test_any_data_of_nearly_the_right_shape(data: object, values: dict[str, str]) -> None:
    text = json.dumps(data, allow_nan=False, default=str) if _is_json(data) else str(data)
    survives(text)
    survives(text, values)
    try:
        parameters(text, "lab.yaml")
    except TemplateError as error:
        assert error.problems


def _is_json(data: object) -> bool:
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        return False
    return True


@settings(deadline=None)
@given(st.text(alphabet="ab()|*+?{}[]^\\,12:P<>=!ix#- ", max_size=30))
@example("(?x)#)")
def test_any_pattern(pattern: str) -> None:
    assert isinstance(trouble(pattern), str)


FLOATS = st.floats(0, 1e6)
st.register_type_strategy(RestartPolicy, st.builds(RestartPolicy, window=FLOATS))
st.register_type_strategy(Readiness, st.builds(Readiness, timeout=FLOATS))


@settings(max_examples=50, deadline=None)
@given(st.builds(LabSpec, parameters=st.dictionaries(st.text(), st.text())))
def test_a_spec_survives_its_json(spec: LabSpec) -> None:
    assert SPEC.validate_json(SPEC.dump_json(spec)) == spec
