"""From impairments to the requests that tc(8) would send. Pure.

A queue is a token bucket (tbf) for the rate, and the emulator (netem) around it for everything
else, as tc-netem(8) says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from labd.model.impairment import DECLARED, Impairment
from labd.model.links import ShapePlan
from labd.model.slots import numbered
from labd.model.specs import LabSpec

ROOT: Final = 0xFFFFFFFF  # TC_H_ROOT, linux/pkt_sched.h
INGRESS: Final = 0xFFFF0000
_NETEM: Final = 0x00010000  # handle 1:
_TBF: Final = 0x00100000  # handle 10:
_NETEM_CLASS: Final = 0x00010001  # 1:1, its only one

_LATENCY: Final = 0.1  # seconds that a frame may wait for the bucket before it is dropped
_BURST_TIME: Final = 0.01  # seconds of the rate
_MIN_BURST: Final = 16 << 10  # bytes: some frames, whatever their MTU
_MIN_LIMIT: Final = 64 << 10  # bytes: one frame of a guest that leaves segmenting to its card
_NETEM_LIMIT: Final = 10_000  # frames on their way at one time


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRequest:
    """One queueing discipline (RTM_NEWQDISC).

    Attributes:
        kind: `tbf` or `netem`.
        handle: Its own.
        parent: Where it is attached.
        options: Of its kind, in the units of the kernel: bytes a second, bytes, microseconds,
            per cent.
    """

    kind: str
    handle: int
    parent: int
    options: Mapping[str, float] = field(default_factory=dict)


def queue_requests(sends: Impairment) -> list[QueueRequest]:
    """Return the disciplines of a queue, the outer one first."""
    requests = []
    parent = ROOT
    if sends.needs_netem:
        requests.append(
            QueueRequest(kind="netem", handle=_NETEM, parent=ROOT, options=_netem(sends))
        )
        parent = _NETEM_CLASS
    if sends.rate:
        requests.append(
            QueueRequest(kind="tbf", handle=_TBF, parent=parent, options=_tbf(sends.rate))
        )
    return requests


def _netem(sends: Impairment) -> dict[str, float]:
    options: dict[str, float] = {"limit": _NETEM_LIMIT}
    for item in DECLARED:
        value, factor = getattr(sends, item.name), item.quantity.kernel_factor
        if item.netem and value:
            options[item.netem] = value if factor == 1 else round(value * factor)
    return options


def _tbf(rate: int) -> dict[str, float]:
    octets = rate // 8
    burst = max(int(octets * _BURST_TIME), _MIN_BURST)
    return {
        "rate": octets,
        "burst": burst,
        "limit": max(int(octets * _LATENCY), _MIN_LIMIT) + burst,
    }


def plan_shapes(spec: LabSpec, node_keys: Mapping[str, str]) -> tuple[ShapePlan, ...]:
    """Return where the impairments of a lab are made.

    Args:
        spec: With the links as they shall be (`model.links.with_links`).
        node_keys: Node name -> machine key; nodes without one have no taps.
    """
    links = {network.name for network in spec.networks if network.link}
    taps = {
        (node.name, nic.name): tap_name(node_keys[node.name], slot)
        for node in spec.nodes
        if node.name in node_keys
        for slot, nic in numbered(node.nics)
    }
    shapes = []
    for node in spec.nodes:
        for nic in node.nics:
            tap = taps.get((node.name, nic.name))
            if not nic.sends or tap is None:
                continue
            far = [
                end
                for other in spec.nodes
                for item in other.nics
                if item.network == nic.network and (end := (other.name, item.name)) in taps
                if end != (node.name, nic.name)
            ]
            if nic.network not in links:
                device = f"f{tap[1:]}"
            elif far:
                device = taps[far[0]]
            else:
                continue  # nobody is at the other end
            ifb = nic.network not in links
            shapes.append(ShapePlan(tap=tap, device=device, ifb=ifb, sends=nic.sends))
    return tuple(shapes)


def tap_name(key: str, slot: int) -> str:
    """Return the interface name of the tap of a NIC."""
    return f"t{key}{slot}"
