"""The order of the suite: what takes long begins first."""

from __future__ import annotations

from pathlib import Path

from tests.durations import known, longest_first, store

TESTS = [("a", ""), ("b", ""), ("c[1]@g", "g"), ("d", ""), ("c[2]@g", "g"), ("e", "")]


def test_the_longest_begin_first_and_groups_count_as_one() -> None:
    order = longest_first(TESTS, {"b": 40, "c[1]": 30, "c[2]": 20, "d": 2, "e": 60})
    assert [TESTS[at][0] for at in order] == ["e", "c[1]@g", "c[2]@g", "b", "a", "d"]


def test_what_is_short_or_unknown_stays_in_its_order() -> None:
    assert longest_first(TESTS, {"e": 2.9, "d": 1}) == list(range(len(TESTS)))


def test_a_run_stores_its_own_tests_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "durations.json"
    assert known(file) == {}
    store({"t.py::a": 4.04, "t.py::b[x@y]": 7, "t.py::c[1]@g": 5, "t.py::d": 0.2}, file)
    assert known(file) == {"t.py::a": 4.0, "t.py::b[x@y]": 7, "t.py::c[1]": 5}
    store({"t.py::a": 0.3, "t.py::c[1]@g": 6}, file)
    assert known(file) == {"t.py::b[x@y]": 7, "t.py::c[1]": 6}
