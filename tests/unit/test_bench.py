"""The runner of the benchmarks: a figure that fails costs that figure alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import run
from bench.report import Report, measure
from bench.result import Failure, Figure, Result, attempt


def figure(name: str, n: int = 1, value: float = 2.0) -> Result:
    return Result(name=name, n=n, unit="s", labd=value, max_value=10)


def good(_: list[int], __: int) -> Iterator[Figure]:
    yield figure("good")


def read(file: Path) -> dict[tuple[str, int | None], Any]:
    return {(record["name"], record["n"]): record for record in json.loads(file.read_text())}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(run, "OUT", tmp_path / "out")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "out" / "results.json"
    signal.signal(signal.SIGTERM, before)


def start(monkeypatch: pytest.MonkeyPatch, *benchmarks: Any, only: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr(run, "BENCHMARKS", list(benchmarks))
    monkeypatch.setattr("sys.argv", ["run.py", *(["--only", *only] if only else [])])
    return run.main()


def test_a_figure_that_fails_is_a_row_and_the_others_go_on(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad(_: list[int], __: int) -> Iterator[Figure]:
        yield figure("first")
        raise AssertionError("80 of 90 guests\nhave answered")

    assert start(monkeypatch, (bad, ("first", "second")), (good, ("good",))) == 1
    found = read(out)
    assert set(found) == {("first", 1), ("second", None), ("good", 1)}
    assert found["second", None]["error"] == "AssertionError: 80 of 90 guests have answered"
    assert found["second", None]["labd"] is None
    assert found["good", 1]["labd"] == 2.0
    assert "second                  - FAILED: AssertionError: 80 of 90" in capsys.readouterr().out


def test_all_that_is_measured_when_someone_interrupts_is_kept(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    def slow(_: list[int], __: int) -> Iterator[Figure]:
        try:
            yield figure("first")
            assert set(read(out)) == {("good", 1), ("first", 1)}, "each is there at once"
            signal.raise_signal(signal.SIGTERM)
            yield figure("second")
        finally:
            ended.append(True)

    assert start(monkeypatch, (good, ("good",)), (slow, ("first", "second"))) == 130
    assert set(read(out)) == {("good", 1), ("first", 1)}
    assert ended, "it has cleaned up"
    assert [path.name for path in out.parent.iterdir()] == ["results.json"]


def test_all_well_is_0_and_a_missed_bar_is_1(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: list[int], __: int) -> Iterator[Figure]:
        yield figure("slow", value=11)

    assert start(monkeypatch, (good, ("good",))) == 0
    assert start(monkeypatch, (good, ("good",)), (slow, ("slow",))) == 1
    assert read(out)["slow", 1]["ok"] is False


def test_one_that_is_measured_again_takes_the_place_of_its_failure(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(_: list[int], __: int) -> Iterator[Figure]:
        raise OSError("no")

    def other(_: list[int], __: int) -> Iterator[Figure]:
        yield figure("other")

    assert start(monkeypatch, (bad, ("good",)), (other, ("other",))) == 1
    assert set(read(out)) == {("good", None), ("other", 1)}
    assert start(monkeypatch, (good, ("good",)), only=("good",)) == 0
    assert set(read(out)) == {("good", 1), ("other", 1)}


def test_of_several_sizes_one_fails_alone(tmp_path: Path) -> None:
    cleaned: list[int] = []

    def sizes() -> Iterator[Figure]:
        for n in (1, 10, 30):

            def both(n: int = n) -> Iterator[Result]:
                yield figure("a", n)
                if n == 10:
                    raise RuntimeError("lost")
                yield figure("b", n)

            yield from attempt(both, ["a", "b"], n, partial(cleaned.append, n))

    report = Report(tmp_path / "results.json", keep=False)
    measure(sizes, ("a", "b"), {"a", "b"}, report)
    assert [each.n for each in report.figures] == [1, 1, 10, 10, 30, 30]
    [lost] = [each for each in report.figures if isinstance(each, Failure)]
    assert (lost.name, lost.n, lost.reason) == ("b", 10, "RuntimeError: lost")
    assert cleaned == [10]
