"""Names, units, MACs and the CloudEvents form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.model.errors import InputError, Problem, TemplateError
from labd.model.events import Event, EventDraft, EventType
from labd.model.names import NodeRef, check_name, did_you_mean, is_name, stable_mac
from labd.model.units import format_size, parse_duration, parse_size


@pytest.mark.parametrize("good", ["a", "web-1", "a" * 31, "x-"])
def test_good_names(good: str) -> None:
    assert check_name(good, "lab") == good


@pytest.mark.parametrize(
    "bad", ["", "1a", "-a", "A", "a_b", "a" * 32, "a\n", "a b", "ä", "a/b", "a,b", "../a", "a\0"]
)
def test_bad_names_are_told(bad: str) -> None:
    assert not is_name(bad)
    with pytest.raises(InputError, match=r"^lab name .* is not valid: use 1 to 31 of a-z, 0-9"):
        check_name(bad, "lab")


def test_references() -> None:
    assert NodeRef.parse("web/server") == NodeRef("web", "server")
    for bad in ("web", "web/", "/x", "a/b/c", "web/Server"):
        with pytest.raises(InputError):
            NodeRef.parse(bad)


def test_the_nearest_word_or_all_of_them() -> None:
    assert did_you_mean("memroy", ["memory", "image"]) == "; did you mean 'memory'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"


def test_macs_are_stable_local_and_distinct() -> None:
    mac = stable_mac("two-tier", "client", "eth0")
    assert mac == stable_mac("two-tier", "client", "eth0")
    assert re.fullmatch(r"02(:[0-9a-f]{2}){5}", mac)
    # No joining of words may make two NICs one.
    assert (
        len({mac, stable_mac("two-tier", "clien", "teth0"), stable_mac("t", "client", "eth0")}) == 3
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512M", 512 << 20), ("1.5 GiB", 3 << 29), (" 2 TiB ", 2 << 40), ("7 KiB", 7168)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1 GB", "1e3", "GiB", "1 GiB\n2", "9" * 40, "½G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InputError, match="write it like 256 MiB or 10 GiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_shown_size_is_near_the_size(size: int) -> None:
    shown = parse_size(format_size(size))
    assert abs(shown - size) <= max(size // 10, 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("2h30m", 9000), ("1d", 86400), ("1.5", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5 m", "m5", "-3s", "1w", "3s2m"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(InputError, match="write it like 90s, 5m or 2h30m"):
        parse_duration(text)


def test_cloudevents_form() -> None:
    draft = EventDraft(
        type=EventType.NODE_READY, lab="web", node="a", operation="op-1", data={"from": "running"}
    )
    event = Event(seq=7, time="2026-01-31T12:00:00.000000Z", source="/labd/x", draft=draft)
    assert event.cloudevent() == {
        "specversion": "1.0",
        "id": "7",
        "source": "/labd/x",
        "type": "io.labd.node.ready",
        "time": "2026-01-31T12:00:00.000000Z",
        "datacontenttype": "application/json",
        "seq": 7,
        "subject": "web/a",
        "lab": "web",
        "node": "a",
        "operation": "op-1",
        "data": {"from": "running"},
    }


def test_a_template_error_has_a_line_for_each_problem() -> None:
    error = TemplateError("x.yaml", [Problem(message="a", line=1, column=2), Problem(message="b")])
    assert str(error) == "x.yaml:1:2: a\nx.yaml:0:0: b"
