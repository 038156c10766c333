"""What a lab asks for, held against what it may have, before anything is started. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labd.core.resolve import Sized
from labd.model.errors import OverQuota
from labd.model.quotas import Quotas
from labd.model.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What all nodes of a lab have together, running or not; the fields are those of `Quotas`."""

    nodes: int
    vcpus: int
    memory: int
    disk: int


def demand(sized: Mapping[str, Sized]) -> Demand:
    """Return what the nodes of a lab ask for. CDs are not counted: all labs share their files."""
    nodes = sized.values()
    return Demand(
        nodes=len(sized),
        vcpus=sum(node.vcpus for node in nodes),
        memory=sum(node.memory for node in nodes),
        disk=sum(_disks(node) for node in nodes),
    )


def _disks(node: Sized) -> int:
    root = node.disk or (node.image.virtual_size if node.image.has_disk else 0)
    return root + sum(disk.size for disk in node.node.disks)


def require_within(lab: str, asked: Demand, quotas: Quotas) -> None:
    """Return when a lab asks for no more than it may have.

    Raises:
        OverQuota: With the numbers of all that is too much.
    """
    pairs = {
        "nodes": (asked.nodes, quotas.nodes),
        "vcpus": (asked.vcpus, quotas.vcpus),
        "memory": (asked.memory, quotas.memory),
        "disk": (asked.disk, quotas.disk),
    }
    over = {name: pair for name, pair in pairs.items() if pair[1] and pair[0] > pair[1]}
    if not over:
        return
    words = {"nodes": "nodes", "vcpus": "vCPUs", "memory": "of memory", "disk": "of disk"}
    said = [
        f"{_number(name, has)} {words[name]} where {_number(name, may)} "
        f"{'is' if name in {'memory', 'disk'} or may == 1 else 'are'} allowed"
        for name, (has, may) in over.items()
    ]
    raise OverQuota(
        f"lab {lab} asks for {' and '.join(said)}; make it smaller, or have the administrator "
        "raise [quotas] in labd.toml",
        over={name: {"asked": has, "allowed": may} for name, (has, may) in over.items()},
    )


def _number(name: str, value: int) -> str:
    return format_size(value) if name in {"memory", "disk"} else str(value)
