"""Requests of operations as stored JSON, `{"v": 1, "kind": ..., FIELD: ...}`, and back.

Reading is strict: a request that is not exactly what its kind's class has is `Unreadable`, so that
its operation is never carried on by a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

import labd.model.request_kinds  # noqa: F401 - registers the kinds
from labd.model.requests import OperationKind, Request, Unreadable, class_of

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


VERSION = 1
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def write(request: Request | Unreadable) -> str:
    """Return a request as stored text; one that could not be read is what it was."""
    if isinstance(request, Unreadable):
        return request.text
    (found,) = _adapter(type(request)).dump_python((request,), mode="json")
    tags = {"v": VERSION, "kind": str(request.kind)}
    return json.dumps({**tags, **found}, separators=(",", ":"))


def read(column: str, text: str) -> tuple[OperationKind, Request | Unreadable]:
    """Return kind and request of a row; text of version 0 is upgraded.

    Args:
        column: The row's kind.
        text: The stored JSON.
    """
    try:
        kind = OperationKind(column)
    except ValueError:
        kind = OperationKind.UNKNOWN
    try:
        return kind, _parse(kind, column, json.loads(text))
    except ValidationError as error:
        return kind, Unreadable(text=text, why=_first(error))
    except (ValueError, RecursionError) as error:
        return kind, Unreadable(text=text, why=str(error))


def _parse(kind: OperationKind, column: str, found: object) -> Request:
    """Return a request.

    Raises:
        ValueError: It is none; tells why.
    """
    request = class_of(kind)
    if request is None:
        raise ValueError(f"this labd knows no operation {column[:40]!r}")
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    values = _values(kind, found)
    names = {field.name for field in fields(request)}
    for wrong, word in ((names - values.keys(), "lacks"), (values.keys() - names, "has")):
        if wrong:
            raise ValueError(f"it {word} the field {min(wrong)[:40]!r}")
    value: Request = _adapter(request).validate_json(json.dumps([values]))[0]
    return value


def _values(kind: OperationKind, found: Mapping[str, object]) -> Mapping[str, object]:
    """Return the fields of the present version, without the tags."""
    if "v" not in found:
        return upgrade(kind, found)
    version, tag = found["v"], found.get("kind")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"it is of version {str(version)[:20]}, and this labd reads {VERSION}")
    if tag != kind:
        raise ValueError(f"it is a request of kind {str(tag)[:40]!r}")
    return {name: value for name, value in found.items() if name not in {"v", "kind"}}


def _adapter(request: type[Request]) -> TypeAdapter[Any]:
    found = _ADAPTERS.get(request)
    if found is None:
        # In a tuple, because pydantic takes no config for a bare dataclass.
        found = TypeAdapter(tuple[request], config=_STRICT)  # type: ignore[valid-type]
        _ADAPTERS[request] = found
    return found


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong, as a clause."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return f"its field {place[:80]!r} is wrong ({first['msg']})"
