"""What a lab may have at most, as the administrator says; see `[quotas]` of labd.toml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds of each lab; 0 for none.

    Attributes:
        nodes: Virtual machines.
        vcpus: Of all nodes together.
        memory: Bytes of all nodes together.
        disk: Bytes of all disks together, as the guests see them.
        written: Bytes that the disks may take on the host.
    """

    nodes: int = 0
    vcpus: int = 0
    memory: int = 0
    disk: int = 0
    written: int = 0
