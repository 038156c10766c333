"""Hold traces on the host against the inventory. Pure; see `features.fsck.service`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from labd.model.differences import Difference, Mismatch, Sort, Trace
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, NodeRecord
from labd.model.states import NODE_ALIVE, NodeState

_M = Mismatch
_KINDS: Mapping[Sort, Mismatch] = {
    **{sort: _M(f"orphan-{sort}") for sort in Sort if sort not in {Sort.NAMESPACE, Sort.FOREIGN}},
    Sort.NAMESPACE: _M.PINNED_NAMESPACE,
    Sort.FOREIGN: _M.FOREIGN,
}
_AS_PLANNED = "make the networks of the lab as they should be"
MONITOR = "qmp.sock"
# A node in them may have no monitor yet, or no more.
_ON_ITS_WAY = frozenset({NodeState.STARTING, NodeState.STOPPING})


def kind_of(trace: Trace) -> Mismatch:
    """Return the kind of difference that a trace of nobody is."""
    return _KINDS[trace.sort]


def orphans(traces: Sequence[Trace], owners: Collection[str]) -> Iterator[Difference]:
    """Yield the traces that belong to no lab and no node.

    Args:
        traces: What the host has.
        owners: Keys of all labs and nodes.
    """
    for trace in traces:
        if trace.owner in owners:
            continue
        yield Difference(
            kind=kind_of(trace),
            name=trace.name,
            text=f"{trace.text} belongs to no lab" if trace.owner else trace.text,
            remedy=trace.remedy,
        )


def lost(
    traces: Sequence[Trace],
    labs: Iterable[tuple[LabRecord, LabNetworkPlan, Sequence[NodeRecord]]],
) -> Iterator[Difference]:
    """Yield what labs need and the host has not.

    Args:
        traces: What the host has.
        labs: Those that no operation holds, each with its networks and its nodes.
    """
    there = {(trace.sort, trace.name) for trace in traces}
    served = {trace.owner for trace in traces if trace.sort is Sort.SERVER}
    for lab, plan, nodes in labs:
        if any(node.state in NODE_ALIVE - {NodeState.STOPPING} for node in nodes):
            yield from _lost_networks(there, served, lab, plan)
        yield from _lost_sockets(there, nodes)


def _lost_networks(
    there: Collection[tuple[Sort, str]],
    served: Collection[str],
    lab: LabRecord,
    plan: LabNetworkPlan,
) -> Iterator[Difference]:
    if plan.server is not None and lab.key not in served:
        yield Difference(
            kind=_M.LOST_SERVER,
            name=lab.name,
            text=f"the dnsmasq of lab {lab.name} does not run",
            remedy=_AS_PLANNED,
        )
    for name in _uplinks(plan):
        if (Sort.UPLINK, name) not in there:
            yield Difference(
                kind=_M.LOST_UPLINK,
                name=f"{lab.name}/{name}",
                text=f"{name}, a part of the uplinks of lab {lab.name}, is not there",
                remedy=_AS_PLANNED,
            )


def _lost_sockets(
    there: Collection[tuple[Sort, str]], nodes: Sequence[NodeRecord]
) -> Iterator[Difference]:
    for node in nodes:
        alive = node.state in NODE_ALIVE - _ON_ITS_WAY
        if alive and (Sort.SOCKET, f"{node.key}/{MONITOR}") not in there:
            name = f"{node.lab}/{node.name}"
            yield Difference(
                kind=_M.LOST_SOCKET,
                name=name,
                text=f"the monitor of {name} has lost its socket {node.key}/{MONITOR}, so that a "
                f"later labd cannot take the node over; `lab restart {name}` makes it anew",
            )


def _uplinks(plan: LabNetworkPlan) -> Iterator[str]:
    uplinks = plan.uplinks
    if uplinks is None:
        return
    if uplinks.nat:
        yield uplinks.link
        yield uplinks.table
    for mapped in uplinks.mapped:
        yield mapped.outer
