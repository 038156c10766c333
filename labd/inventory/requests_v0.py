"""Requests as they were stored before they had a version: dicts with what each use-case put in."""

from __future__ import annotations

from collections.abc import Mapping

from labd.model.requests import OperationKind

_K = OperationKind
# Written for every action alike, and read by none of these.
_UNUSED: Mapping[OperationKind, frozenset[str]] = {
    _K.DOWN: frozenset({"nodes"}),
    _K.DESTROY: frozenset({"nodes", "force", "grace"}),
    _K.START: frozenset({"force", "grace"}),
    _K.PAUSE: frozenset({"force", "grace"}),
    _K.RESUME: frozenset({"force", "grace"}),
    _K.RESET: frozenset({"force", "grace"}),
    _K.FORK: frozenset({"new"}),  # always true
}
_TAKEN_BACK = frozenset({_K.UP, _K.EDIT, _K.START, _K.RESTART, _K.FORK})


def upgrade(kind: OperationKind, old: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of version 1. Values are not judged here: the strict reader does that.

    Args:
        kind: Of the operation.
        old: The stored object, of version 0.
    """
    unused = _UNUSED.get(kind, frozenset())
    new = {name: value for name, value in old.items() if name not in unused}
    if kind in _TAKEN_BACK:
        new.setdefault("undoing", "")  # written when the undoing began
    if kind is _K.FORK:
        new |= {"before": [], "was": None}  # what a fork takes back is its lab
    elif new.get("was") == {}:
        new["was"] = None  # the lab was new
    return new
