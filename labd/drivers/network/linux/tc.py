"""Impairments by netlink (tc(8) does the same): queues of taps, and ifb devices for senders.

Everything here is synchronous and runs inside a lab's namespace (`netns.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError

from labd.drivers.network.linux.links import requests
from labd.drivers.network.linux.shaping import INGRESS, ROOT, queue_requests
from labd.model.errors import NetworkFailed
from labd.model.impairment import Impairment
from labd.model.links import ShapePlan

_ETH_P_ALL = 3  # linux/if_ether.h
_LOOPBACK = 1
_OURS: Final = {"tbf", "netem"}
# Device -> (its index, what its queue does). An interface that is made anew has another index, but
# in a namespace that is made anew, too, it may have the same one: its queue tells.
Done = dict[str, tuple[int, Impairment]]


def netem_missing() -> bool:
    """True if this kernel has no emulator; in a namespace that nobody else is in."""
    with requests("looking for the network emulator") as route:
        try:
            route.tc("add", "netem", _LOOPBACK, 0x10000, parent=ROOT, delay=1)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EOPNOTSUPP):
                return True
            raise
    return False


def apply_shapes(shapes: Sequence[ShapePlan], done: Done) -> None:
    """Have exactly these impairments; taps that are not there are left out (idempotent).

    Args:
        shapes: Of the whole lab.
        done: What earlier calls for this namespace did; brought up to date.

    Raises:
        NetworkFailed: What was there before may be gone; calling again goes on.
    """
    with requests("impairing links") as route:
        there = {str(link.get("ifname")): int(link["index"]) for link in route.get_links()}
        queues = list(route.get_qdiscs())
        wanted = {shape.device: shape for shape in shapes if shape.tap in there}
        queued = {int(queue["index"]) for queue in queues if _is_ours(queue)}
        _remove_others(route, there, queues, wanted, done)
        for device, shape in wanted.items():
            if shape.ifb:
                _lead_through(route, there, queues, shape)
            elif device not in there:
                continue
            index = there[device]
            if index in queued and done.get(device) == (index, shape.sends):
                continue
            done.pop(device, None)
            _queue(route, index, shape.sends, queues)
            done[device] = (index, shape.sends)


def _is_ours(queue: Mapping[str, Any]) -> bool:
    return queue.get("kind") in _OURS and queue["parent"] == ROOT


def _remove_others(
    route: IPRoute,
    there: dict[str, int],
    queues: Sequence[Any],
    wanted: dict[str, ShapePlan],
    done: Done,
) -> None:
    for device in list(done):
        if device not in wanted:
            del done[device]
    led = {there[shape.tap] for shape in wanted.values() if shape.ifb}
    kept = {there[device] for device in wanted if device in there}
    for queue in queues:
        index = int(queue["index"])
        if _is_ours(queue) and index not in kept:
            route.tc("del", index=index, handle=queue["handle"], parent=ROOT)
        elif queue.get("kind") == "ingress" and index not in led:
            route.tc("del", "ingress", index, INGRESS)
    for link in list(route.get_links(kind="ifb")):
        name = str(link.get("ifname"))
        if name not in wanted:
            route.link("del", index=link["index"])
            there.pop(name, None)


def _lead_through(
    route: IPRoute, there: dict[str, int], queues: Sequence[Any], shape: ShapePlan
) -> None:
    """Lead what comes in at a tap through an ifb device, which gives it back to the tap."""
    tap = there[shape.tap]
    if shape.device not in there:
        try:
            route.link("add", ifname=shape.device, kind="ifb", state="up")
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.ENODEV):
                raise NetworkFailed(
                    "this kernel cannot impair what one node sends into a network of many: it "
                    "has no CONFIG_IFB; use a link, or another kernel"
                ) from error
            raise
        there[shape.device] = int(route.link_lookup(ifname=shape.device)[0])
    elif any(q["index"] == tap and q.get("kind") == "ingress" for q in queues):
        return
    route.tc("add", "ingress", tap, INGRESS)
    route.tc(
        "add-filter",
        "u32",
        tap,
        parent=INGRESS,
        prio=1,
        protocol=_ETH_P_ALL,
        target=0x10000,
        keys=["0x0/0x0+0"],  # every frame
        action={
            "kind": "mirred",
            "direction": "egress",
            "action": "redirect",
            "ifindex": there[shape.device],
        },
    )


def _queue(route: IPRoute, index: int, sends: Impairment, queues: Sequence[Any]) -> None:
    for queue in queues:
        if queue["index"] == index and _is_ours(queue):
            route.tc("del", index=index, handle=queue["handle"], parent=ROOT)
    for request in queue_requests(sends):
        route.tc(
            "add", request.kind, index, request.handle, parent=request.parent, **request.options
        )
