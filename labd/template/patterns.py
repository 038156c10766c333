"""Which regular expressions a template may look for in a guest's output.

A guest decides what it writes and a template what is looked for, so together they could keep the
matcher busy for hours. Python's `re` backtracks; what makes it exponential (a repeat of a group
that itself repeats or branches, back-references) is refused, as RE2 would not need to.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

MAX_LENGTH: Final = 200
_LINE: Final = 4096  # characters: how far * and + may reach in a line of output
# Ways to go on from one place of a line: * and + have as many as the line is long, {m,n} has
# n - m + 1, ? and | have two, and they multiply. This many, from each place of a line, take 0.1 s.
_MAX_WAYS: Final = 16 * _LINE
_TOKEN = re.compile(
    r"""(?P<escape>\\.)
      | (?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])
      | (?P<group>\((?:\?(?P<kind>:|P<|[aimsux-]+:?|.))?)
      | (?P<close>\))
      | (?P<repeat>(?:[*+?]|\{[0-9]*(?:,[0-9]*)?\})[?+]?)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def trouble(pattern: str) -> str:
    """Return why a pattern is not let in, or nothing."""
    if len(pattern) > MAX_LENGTH:
        return f"is too long: {MAX_LENGTH} characters at most"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}"
    return _dangerous(pattern)


def _dangerous(pattern: str) -> str:
    busy = [False]  # of each open group: it has a repeat or a branch in it
    closed = False  # the group that has just ended was such a one
    ways = 1
    for token in _TOKEN.finditer(pattern):
        after_busy, closed = closed, False
        if token["escape"] and token["escape"][1] in "123456789":
            return "back-references are not allowed"
        if token["group"]:
            if "x" in (token["kind"] or ""):
                return "the flag x is not allowed; write it without blanks and comments"
            if not _is_plain(token["kind"]):
                return "look-around, conditions and back-references are not allowed"
            busy.append(False)
        elif token["close"]:
            closed = busy.pop()
            busy[-1] = busy[-1] or closed
        elif token["repeat"]:
            if after_busy and token["repeat"] != "?":
                return "a group that repeats or branches cannot be repeated; write it out"
            ways *= _ways(token["repeat"])
            busy[-1] = True
        elif token["other"] == "|":
            ways *= 2
            busy[-1] = True
    if ways > _MAX_WAYS:
        return "would take too long; use one * or +, {m,n} with small numbers, and few ? and |"
    return ""


def _ways(repeat: str) -> int:
    """Return between how many lengths a repeat may choose."""
    if repeat[0] in "*+":
        return _LINE
    if repeat[0] == "?":
        return 2
    low, comma, high = repeat.rstrip("?+").strip("{}").partition(",")
    if not comma:
        return 1
    return max(1, min(_LINE, int(high) - int(low or 0) + 1)) if high else _LINE


def _is_plain(kind: str | None) -> bool:
    """True if what follows `(?` begins a group without powers of its own; None is `(`."""
    return kind is None or kind in {":", "P<"} or (kind[0] in "aimsux")
