"""Nodes with a `count` become that many nodes: `player` becomes `player-1`, `player-2` and so on.

`${index}` in their strings is the number of the copy, from 1, and their addresses go up by one a
copy. What names the group in `depends_on` waits for all of it.
"""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

from labd.model.names import is_name
from labd.template.document import Document, Problems

MAX_COUNT = 100


def expand(document: Document, problems: Problems) -> None:
    """Expand `nodes:` in place."""
    nodes = document.data.get("nodes")
    if not isinstance(nodes, dict):
        return
    expanded: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if not isinstance(node, dict) or "count" not in node:
            expanded[name] = node
            continue
        count = node["count"]
        place = document.place(("nodes", name, "count"))
        if isinstance(count, bool) or not isinstance(count, int):
            problems.add(f"node {name}: count must be a whole number", place)
            continue
        if not 1 <= count <= MAX_COUNT:
            problems.add(f"node {name}: count must be 1 to {MAX_COUNT}, not {count}", place)
            continue
        if not is_name(f"{name}-{count}"):
            problems.add(
                f"node name '{name[:64]}-{count}' is not valid: use 1 to 31 of a-z, 0-9 and '-', "
                "beginning with a letter",
                document.key_place(("nodes", name)),
            )
            continue
        groups[name] = [f"{name}-{index}" for index in range(1, count + 1)]
        for index, copied in enumerate(groups[name], 1):
            if copied in nodes:
                problems.add(
                    f"node {copied} is there twice: by itself and as a copy of {name}",
                    document.key_place(("nodes", copied)),
                )
            document.origins["nodes", copied] = ("nodes", name)
            expanded[copied] = _copy(document, name, node, index, problems)
    for node in expanded.values():
        _spread_dependencies(node, groups)
    document.data["nodes"] = expanded


def _copy(
    document: Document, name: str, node: dict[str, Any], index: int, problems: Problems
) -> dict[str, Any]:
    made: dict[str, Any] = _fill(copy.deepcopy(node), index)
    del made["count"]
    nics = made.get("nics")
    for nic_name, nic in nics.items() if isinstance(nics, dict) else ():
        if not isinstance(nic, dict):
            continue
        if "mac" in nic and index > 1:
            problems.add(
                f"node {name}: a node with a count cannot have a fixed mac; leave it out",
                document.place(("nodes", name, "nics", nic_name, "mac")),
            )
        for key in ("address", "addresses"):
            if key in nic:
                nic[key] = _shift(nic[key], index - 1)
    return made


def _fill(data: Any, index: int) -> Any:  # noqa: ANN401 - plain data
    if isinstance(data, dict):
        return {key: _fill(item, index) for key, item in data.items()}
    if isinstance(data, list):
        return [_fill(item, index) for item in data]
    return data.replace("${index}", str(index)) if isinstance(data, str) else data


def _shift(value: Any, by: int) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, list):
        return [_shift(item, by) for item in value]
    try:
        interface = ipaddress.ip_interface(value)
        return f"{interface.ip + by}/{interface.network.prefixlen}"
    except (ValueError, TypeError):
        return value  # told later, with its place


def _spread_dependencies(node: Any, groups: dict[str, list[str]]) -> None:  # noqa: ANN401
    needs = node.get("depends_on") if isinstance(node, dict) else None
    if isinstance(needs, dict):
        node["depends_on"] = {
            member: condition
            for name, condition in needs.items()
            for member in groups.get(name, [name])
        }
    elif isinstance(needs, list):
        node["depends_on"] = [member for name in needs for member in groups.get(str(name), [name])]
