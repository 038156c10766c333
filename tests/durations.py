"""How long tests take, which `make durations` writes, and the order that follows from it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = Path(__file__).with_name("durations.json")
_SHORT = 3.0  # seconds; a test or a group below stays where it is, beside its module's fixtures


def known(file: Path = FILE) -> dict[str, float]:
    """Return the seconds of each test that is not short."""
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return found


def longest_first(
    tests: Sequence[tuple[str, str]], seconds: Mapping[str, float] | None = None
) -> list[int]:
    """Return the indices of the tests in the order in which they are begun.

    Args:
        tests: Id and group of each; the empty group is none. A group runs in one worker, so it is
            as long as all its tests.
        seconds: Those of each id; None: the stored ones.
    """
    took = known() if seconds is None else seconds
    units = [group or test for test, group in tests]
    total: defaultdict[str, float] = defaultdict(float)
    for unit, (test, group) in zip(units, tests, strict=True):
        total[unit] += took.get(plain(test, group), 0)
    return sorted(
        range(len(tests)), key=lambda at: -total[units[at]] if total[units[at]] >= _SHORT else 0
    )


def plain(test: str, group: str) -> str:
    """Return the id of a test without the group that xdist has added."""
    return test.removesuffix(f"@{group}") if group else test


def store(took: Mapping[str, float], file: Path = FILE) -> None:
    """Write the seconds of the tests that ran; those of others stay as they are."""
    fresh = {_without_group(test): round(seconds, 1) for test, seconds in took.items()}
    kept = {test: seconds for test, seconds in known(file).items() if test not in fresh}
    all_of_them = kept | {test: seconds for test, seconds in fresh.items() if seconds >= 1}
    file.write_text(json.dumps(dict(sorted(all_of_them.items())), indent=1) + "\n")


def _without_group(test: str) -> str:
    head, _, tail = test.rpartition("@")
    return head if head and "::" not in tail and "]" not in tail else test
