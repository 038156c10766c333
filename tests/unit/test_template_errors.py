"""Malformed templates: each with its whole message, place included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from labd.model.errors import TemplateError
from labd.template import load, parameters
from labd.template.patterns import trouble

GOLDEN = Path(__file__).parent / "golden" / "template-errors.txt"
ONE = "name: a\nnodes: {a: {image: tiny}}\n"
PARAMETERS = """name: a
parameters:
  cpus: {type: integer, default: 1}
  size: {type: size, default: 64 MiB}
  time: {type: duration, default: 1m}
  on: {type: boolean, default: false}
  who: {type: name, default: me}
  way: {type: choice, choices: [up, down], default: up}
  share: {type: number, default: 0.5}
  text: {default: hello}
nodes: {a: {image: tiny}}
"""


def malformed() -> Iterator[tuple[str, str, str]]:
    """Yield title, text and expected errors: `=== title`, the text, `>>>`, the errors."""
    for part in GOLDEN.read_text().split("=== ")[1:]:
        title, _, rest = part.partition("\n")
        text, _, errors = rest.partition(">>>\n")
        yield title, text, errors.rstrip("\n")


def complaint(text: str, settings: Mapping[str, str] | None = None) -> str:
    with pytest.raises(TemplateError) as caught:
        load(text, "lab.yaml", settings)
    return str(caught.value)


def node(line: str) -> str:
    return f"name: a\nnodes:\n  a:\n    image: tiny\n    {line}\n"


@pytest.mark.parametrize(
    ("text", "errors"), [pytest.param(t, e, id=title) for title, t, e in malformed()]
)
def test_a_malformed_template_is_told_with_its_place(text: str, errors: str) -> None:
    assert complaint(text) == errors


def test_there_are_many_malformed_templates() -> None:
    titles = [title for title, _, _ in malformed()]
    assert len(titles) == len(set(titles)) >= 150


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(
            "name: a\ndescription: x\x01y\n",
            "lab.yaml:2:15: the character U+0001 is not allowed; take it out",
            id="a control character",
        ),
        pytest.param(
            "name: \x00\n",
            "lab.yaml:1:7: the character U+0000 is not allowed; take it out",
            id="a zero",
        ),
        pytest.param(
            "name: \ud800\n",
            "lab.yaml:1:7: the character U+D800 is not allowed; take it out",
            id="half a surrogate pair",
        ),
        pytest.param(
            'name: a\nnodes: {a: {image: "\\ud83d\\ude00"}}\n',
            "lab.yaml:2:20: the character U+D83D is half of one; write the whole one",
            id="a surrogate pair as JSON escapes it",
        ),
        pytest.param(
            ONE + "#" * (256 << 10),
            "lab.yaml:1:1: the template is larger than 256 KiB; split the lab",
            id="too large",
        ),
        pytest.param(
            "[" * 100_000,
            "lab.yaml:1:17: nested too deeply; a template needs no more than a few levels",
            id="a hundred thousand brackets",
        ),
        pytest.param(
            "- " * 100_000,
            "lab.yaml:1:33: nested too deeply; a template needs no more than a few levels",
            id="a hundred thousand dashes",
        ),
        pytest.param(
            node("cmdline: " + "x" * 1025),
            "lab.yaml:5:14: node a, cmdline: is too long: 1024 characters at most",
            id="a long command line",
        ),
        pytest.param(
            node("ready: {console: " + "x" * 201 + "}"),
            "lab.yaml:5:22: node a: ready console: is too long: 200 characters at most",
            id="a long pattern",
        ),
        pytest.param(
            node(f"commands: [[{', '.join(['x'] * 65)}]]"),
            "lab.yaml:5:16: node a, commands, entry 1: has at most 64 words of at most 1024 "
            "characters",
            id="a command of many words",
        ),
        pytest.param(
            node(f"commands: [{', '.join(['[x]'] * 65)}]"),
            "lab.yaml:5:15: node a, commands: may have 64 entries at most",
            id="many commands",
        ),
        pytest.param(
            node("cmdline: " + "${text}" * 10).replace(
                "nodes", f"parameters: {{text: {{default: {'x' * 1024}}}}}\nnodes"
            ),
            "lab.yaml:6:14: is longer than 4096 characters; write less",
            id="a parameter that swells",
        ),
        pytest.param(
            "name: a\nparameters: {p: {default: "
            + "x" * 1000
            + "}}\nnodes: {a: {image: tiny, count: 100, commands: [["
            + ", ".join(['"${p}${p}"'] * 64)
            + "]]}}\n",
            "lab.yaml:3:458: the lab is larger than 8 MiB with its values put in; split it",
            id="parameters that swell in copies",
        ),
        pytest.param(
            "name: a\nnodes: {a: {image: tiny, count: 100, routes: ["
            + ", ".join(["{}"] * 500)
            + "]}}\n",
            "lab.yaml:2:1: a lab has at most 50000 values in its nodes, not 50400; split the lab",
            id="many parts in many copies",
        ),
        pytest.param(
            ONE.replace("nodes", "description: " + "x" * 2001 + "\nnodes"),
            "lab.yaml:2:14: description: is too long: 2000 characters at most",
            id="a long description",
        ),
    ],
)
def test_what_could_harm_is_refused(text: str, error: str) -> None:
    assert complaint(text) == error


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (
            {"cpu": "2"},
            "--set:1:1: there is no parameter 'cpu'; did you mean 'cpus'?",
        ),
        (
            {"zzz": "2"},
            (
                "--set:1:1: there is no parameter 'zzz'; known: cpus, on, share, size, text, time, "
                "way, who"
            ),
        ),
        ({"cpus": "two"}, "--set:1:6: parameter cpus: 'two': write a whole number"),
        ({"cpus": ""}, "--set:1:6: parameter cpus: '': write a whole number"),
        (
            {"text": "ok", "size": "64"},
            "--set:2:6: parameter size: '64': write a size with a unit, like 64 MiB",
        ),
        (
            {"size": "big"},
            (
                "--set:1:6: parameter size: 'big': size 'big' is not valid: write it like 256 MiB"
                " or 10 GiB"
            ),
        ),
        (
            {"time": "soon"},
            (
                "--set:1:6: parameter time: 'soon': duration 'soon' is not valid: write it like 90s"
                ", 5m or 2h30m"
            ),
        ),
        ({"on": "yes"}, "--set:1:4: parameter on: 'yes': write true or false"),
        (
            {"who": "Me"},
            (
                "--set:1:5: parameter who: 'Me': not a valid name: use 1 to 31 of a-z, 0-9 and '-'"
                ", beginning with a letter"
            ),
        ),
        ({"way": "left"}, "--set:1:5: parameter way: 'left': must be one of up, down"),
        ({"share": "1e3"}, "--set:1:7: parameter share: '1e3': write a number, like 3 or 0.5"),
        (
            {"text": "a\nb"},
            "--set:1:6: parameter text: 'a\\nb': control characters and line ends are not allowed",
        ),
        (
            {"text": "x" * 1025},
            f"--set:1:6: parameter text: '{'x' * 64}': is too long: 1024 characters at most",
        ),
        (
            {"cpus": "x", "on": "x"},
            (
                "--set:1:6: parameter cpus: 'x': write a whole number\n"
                "--set:2:4: parameter on: 'x': write true or false"
            ),
        ),
    ],
)
def test_a_wrong_setting_is_told_as_such(settings: dict[str, str], error: str) -> None:
    assert complaint(PARAMETERS, settings) == error


def test_settings_for_a_template_without_parameters() -> None:
    error = "--set:1:1: there is no parameter 'memory'; the template has none"
    assert complaint(ONE, {"memory": "1 GiB"}) == error


def test_problems_are_told_to_programs_too() -> None:
    with pytest.raises(TemplateError) as caught:
        load("name: A\nnodes: {a: {vcpus: 0, image: t}}\n", "lab.yaml")
    assert caught.value.details["problems"] == [
        {
            "line": 1,
            "column": 7,
            "message": "name: 'A' is not a valid name: use 1 to 31 of a-z, 0-9 and '-', beginning "
            "with a letter",
        },
        {"line": 2, "column": 20, "message": "node a, vcpus: must be at least 1"},
    ]


def test_parameters_of_a_broken_template_are_told() -> None:
    with pytest.raises(TemplateError, match="lab.yaml:1:13: parameters: write a mapping"):
        parameters("parameters: 5", "lab.yaml")


@pytest.mark.parametrize(
    "pattern",
    [
        "labd: ready",
        "login: $",
        "(?:up|ready) in [0-9]+ ms",
        "(?i)ready",
        "(?i:ready)",
        r"\(a\)+",
        r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}",
        "(a|b)" * 10,
        "[0-9]+ of (?:ten|twenty)",
        "[(*+]+",
        "[]a]+",
        "(ready)?",
        "(?P<what>ready)",
        "a{2,3}",
    ],
)
def test_a_harmless_pattern_is_let_in(pattern: str) -> None:
    assert trouble(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "((a+)b)+",
        "(a|a)*",
        "(a{2,3}){4}",
        "(a?){20}a",
        "(?:a*)*",
        "([a-z]+)*$",
        "a?" * 30,
        "(a|b)" * 20,
        ".*.*",
        "a*b+c",
        "a{1,99}a{1,99}a{1,99}",
        "a{2,}.*",
        "(?x)(a+) +$",
        "(?x:(a+) +)$",
        "(?x)#)",
        r"(a)\1",
        "(?P<x>a)(?P=x)",
        "(?<=a)b",
        "(?(1)a|b)",
        "(",
        "a**",
        "x{9999999999999}",
    ],
)
def test_a_dangerous_pattern_is_refused(pattern: str) -> None:
    assert trouble(pattern)


def test_a_value_that_an_option_gave_is_told_by_the_option() -> None:
    text = (
        "name: party\nparameters:\n  players: {type: integer, default: 4}\n"
        "  kind: {type: string, default: q35}\n"
        "nodes:\n  player: {image: tiny, count: '${players}', machine: '${kind}', vcpus: 0}\n"
    )
    assert complaint(text, {"players": "0"}) == (
        "lab.yaml:6:32: --set players=0: node player, count: must be 1 to 100, not 0"
    )
    assert complaint(text, {"kind": "pdp"}) == (
        "lab.yaml:6:55: --set kind=pdp: node player, machine: must be pc, q35 or microvm\n"
        "lab.yaml:6:73: node player, vcpus: must be at least 1"
    ), "and nothing else is"
    assert "--set" not in complaint(text.replace("default: 4", "default: 0"))
