"""What docs/events.md promises of each type of event, read from its tables.

Tests hold every event that labd writes against it, so that page and code cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "events.md"
_WORD = re.compile(r"`([^`]+)`")


@cache
def promised() -> Mapping[str, frozenset[str]]:
    """Return type -> the keys that its data may have.

    A row has the keys that it names, and those that its table's head has for all rows. Where it
    names another type it has that one's keys too, and `the same` stands for the row above.
    """
    found: dict[str, frozenset[str]] = {}
    common, above = frozenset[str](), frozenset[str]()
    for line in PAGE.read_text().partition("\n## Types\n")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) != 3:
            continue
        words = frozenset(_WORD.findall(cells[2]))
        if cells[0] == "type":
            common = words
            continue
        keys = words | common | (above if "the same" in cells[2] else frozenset())
        for word in words & found.keys():
            keys |= found[word]
        above = keys
        for kind in _WORD.findall(cells[0]):
            assert kind not in found, f"{kind} stands twice in {PAGE.name}"
            found[kind] = keys
    return found


def unpromised(events: Iterable[tuple[str, Mapping[str, object]]]) -> list[str]:
    """Return what events (type and data) have that the page does not tell of."""
    known = promised()
    found = set()
    for kind, data in events:
        if kind not in known:
            found.add(f"{PAGE.name} does not tell of {kind}")
        found |= {
            f"{PAGE.name} does not tell of {key!r} of {kind}"
            for key in data.keys() - known.get(kind, frozenset())
        }
    return sorted(found)
