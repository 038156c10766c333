"""Text for people: aligned columns and ages. Small, because every verb pays for its import."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from labd.client.types import NodeBrief

_COLOURS = {
    "ready": 32,
    "running": 32,
    "succeeded": 32,
    "ok": 32,
    "up": 32,
    "starting": 33,
    "stopping": 33,
    "paused": 33,
    "degraded": 33,
    "unresponsive": 33,
    "backoff": 33,
    "warn": 33,
    "crashed": 31,
    "panicked": 31,
    "failed": 31,
    "fail": 31,
}


def colours() -> bool:
    """True if stdout takes colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def plain(text: object) -> str:
    """Return text without control characters: nothing a guest says shall move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def strip_escapes(text: str) -> str:
    """Return text without terminals' escape sequences (ECMA-48 CSI and OSC)."""
    import re

    pattern = r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
    return re.sub(pattern, "", text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns under a head; the last column is not padded."""
    lines = [list(head), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    bright = colours()
    shown = []
    for number, line in enumerate(lines):
        cells = []
        for cell, width in zip(line, widths, strict=True):
            padded = cell.ljust(width)
            colour = _COLOURS.get(cell) if bright and number else None
            cells.append(f"\x1b[{colour}m{padded}\x1b[0m" if colour else padded)
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def paused(nodes: Sequence[NodeBrief]) -> int:
    """Return how many nodes are paused; their lab is `running` nonetheless."""
    return sum(node["state"] == "paused" for node in nodes)


def age(time: str) -> str:
    """Return how long ago an RFC 3339 time was: `5 s`, `12 min`, `3 h`, `2 d`."""
    try:
        passed = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except ValueError:
        return "-"
    return span(passed)


def span(passed: float | None) -> str:
    """Return seconds in the one unit that fits, as `age` does; `-` for None."""
    if passed is None:
        return "-"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if passed < limit:
            return f"{max(0, int(passed / divisor))} {unit}"
    return f"{int(passed / 86400)} d"


def size(count: int | None) -> str:
    """Return bytes in a readable unit, `-` for None and 0."""
    if not count:
        return "-"
    from labd.model.units import format_size

    return format_size(count)
