"""The figures of a run, on disk as they come: a run that ends early has lost none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.result import Failure, Figure


class Report:
    """Prints and writes figures.

    Args:
        file: Written whole after each figure, in one step.
        keep: What the file has of before stays until it is measured again.
    """

    def __init__(self, file: Path, *, keep: bool) -> None:
        self._file = file
        self._old = json.loads(file.read_text()) if keep and file.exists() else []
        self.figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Take one more figure."""
        self.figures.append(figure)
        print(figure.row(), flush=True)
        fresh = [each.record() for each in self.figures]
        known = {(record["name"], record["n"]) for record in fresh}
        named = {record["name"] for record in fresh}
        stay = [
            record
            for record in self._old
            if (record["name"], record["n"]) not in known
            and not (record["n"] is None and record["name"] in named)
        ]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        whole = self._file.with_name(f"{self._file.name}.new")
        whole.write_text(json.dumps([*stay, *fresh], indent=1) + "\n")
        os.replace(whole, self._file)


def measure(
    benchmark: Callable[[], Iterable[Figure]],
    names: Sequence[str],
    wanted: set[str],
    report: Report,
) -> None:
    """Run one benchmark; what it cannot give any more is reported as failed.

    Args:
        benchmark: Yields figures.
        names: Of all that it may yield.
        wanted: Names of those to report.
        report: Takes them.
    """
    given: set[str] = set()
    try:
        for figure in benchmark():
            given.add(figure.name)
            if figure.name in wanted:
                report.add(figure)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other benchmarks go on
        # Where all have come for some size, nobody knows which other sizes were to come.
        missing = [name for name in names if name not in given] or list(names)
        for name in missing:
            if name in wanted:
                report.add(Failure.of(error, name))
