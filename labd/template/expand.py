"""Nodes with a `count` become that many nodes: `player` becomes `player-1`, `player-2` and so on.

`${index}` in their texts is the number of the copy, from 1. An address without it goes up by one a
copy. What names the group in `depends_on` waits for all of it.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

from labd.model.names import is_name
from labd.template.document import Document, Path, Problems
from labd.template.form import MAX_COUNT, MAX_NODES
from labd.template.parameters import Filler, fill

_INDEX: Final = "${index}"
_MAX_PARTS: Final = 50_000  # values and collections of all nodes: a large lab has some 20,000


def expand(document: Document, values: Mapping[str, str], problems: Problems) -> None:
    """Repeat the counted nodes and put in the values, in place."""
    nodes = document.data.get("nodes")
    if not isinstance(nodes, dict):
        fill(document, values, problems)
        return
    # Every count is known before a copy is made, so that no text asks for millions of them.
    counts = {
        name: _count(document, name, node["count"], values, problems)
        for name, node in nodes.items()
        if isinstance(node, dict) and "count" in node
    }
    total = len(nodes) - len(counts) + sum(counts.values())
    if total > MAX_NODES:
        message = f"a lab has at most {MAX_NODES} nodes, not {total}; split the lab"
        problems.add(message, document.key_place(("nodes",)))
        return
    parts = sum(_parts(node) * counts.get(name, 1) for name, node in nodes.items())
    if parts > _MAX_PARTS:
        message = f"a lab has at most {_MAX_PARTS} values in its nodes, not {parts}; split the lab"
        problems.add(message, document.key_place(("nodes",)))
        return
    groups = {name: [f"{name}-{n}" for n in range(1, counts[name] + 1)] for name in counts}
    document.data["nodes"] = _repeat(document, nodes, groups, problems)
    fill(document, values, problems)
    for name, members in groups.items():
        for index, member in enumerate(members):
            if member not in document.copies:
                continue  # told by _repeat
            _shift_addresses(document.data["nodes"][member], nodes[name], index)
    for node in document.data["nodes"].values():
        _spread_dependencies(node, groups)


def _count(
    document: Document, name: str, written: object, values: Mapping[str, str], problems: Problems
) -> int:
    """Return how many, 0 after a problem."""
    path: Path = ("nodes", name, "count")
    count = Filler(document, values, problems).value(written, path)
    if isinstance(count, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", count):
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int):
        problems.add(f"node {name[:64]}, count: write a whole number", document.place(path))
        return 0
    if not 1 <= count <= MAX_COUNT:
        problems.add(
            f"node {name[:64]}, count: must be 1 to {MAX_COUNT}, not {count}", document.place(path)
        )
        return 0
    last = f"{name}-{count}"
    if not is_name(last):
        problems.add(
            f"node {name[:64]}: '{last[:64]}' is not a valid name: use 1 to 31 of a-z, 0-9 and "
            "'-', beginning with a letter",
            document.key_place(path[:-1]),
        )
        return 0
    return count


def _parts(data: object) -> int:
    """Return how many values and collections there are; `document` has bounded their depth."""
    if isinstance(data, dict):
        return 1 + sum(map(_parts, data.values()))
    return 1 + sum(map(_parts, data)) if isinstance(data, list) else 1


def _repeat(
    document: Document, nodes: dict[str, Any], groups: dict[str, list[str]], problems: Problems
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in nodes.items():
        if name not in groups:
            found[name] = node
            continue
        for index, member in enumerate(groups[name], 1):
            if member in nodes:
                problems.add(
                    f"node {member} is there twice: by itself and as a copy of {name}",
                    document.key_place(("nodes", member)),
                )
                continue
            document.origins["nodes", member] = ("nodes", name)
            document.copies[member] = index
            found[member] = copy.deepcopy({k: v for k, v in node.items() if k != "count"})
        if len(groups[name]) > 1:
            _refuse_fixed_macs(document, name, node, problems)
    return found


def _nics(node: object) -> dict[str, dict[str, Any]]:
    nics = node.get("nics") if isinstance(node, dict) else None
    if not isinstance(nics, dict):
        return {}
    return {name: nic for name, nic in nics.items() if isinstance(nic, dict)}


def _refuse_fixed_macs(document: Document, name: str, node: object, problems: Problems) -> None:
    for nic_name, nic in _nics(node).items():
        if "mac" in nic and _INDEX not in str(nic["mac"]):
            problems.add(
                f"node {name}, nic {nic_name}: copies cannot share a MAC address; leave mac out",
                document.place(("nodes", name, "nics", nic_name, "mac")),
            )


def _shift_addresses(node: object, written: object, by: int) -> None:
    """Move the addresses of a copy, but those that say `${index}` themselves."""
    originals = _nics(written)
    for name, nic in _nics(node).items():
        original = originals[name]
        if "address" in nic:
            nic["address"] = _shift(nic["address"], original["address"], by)
        if isinstance(nic.get("addresses"), list):
            nic["addresses"] = [
                _shift(item, before, by)
                for item, before in zip(nic["addresses"], original["addresses"], strict=True)
            ]


def _shift(value: object, written: object, by: int) -> object:
    if not isinstance(value, str) or "/" not in value or _INDEX in str(written):
        return value
    address, _, length = value.partition("/")
    try:
        return f"{ipaddress.ip_address(address) + by}/{length}"
    except ValueError:
        return value  # told later, with its place


def _spread_dependencies(node: object, groups: dict[str, list[str]]) -> None:
    needs = node.get("depends_on") if isinstance(node, dict) else None
    if isinstance(node, dict) and isinstance(needs, dict):
        node["depends_on"] = {
            member: condition
            for name, condition in needs.items()
            for member in groups.get(name, [name])
        }
    elif isinstance(node, dict) and isinstance(needs, list):
        node["depends_on"] = [
            member
            for name in needs
            for member in (groups.get(name, [name]) if isinstance(name, str) else [name])
        ]
