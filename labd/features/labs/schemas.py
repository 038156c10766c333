"""What goes over the wire of labs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from labd.api.models import Body, Name, Wire
from labd.features.labs.views import LabView
from labd.features.leases import _SECONDS, Lease, LeaseTerm, show_lease
from labd.features.operations import Operation, show_operation
from labd.features.templates import TemplateText
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import LabSpec, NodeSpec
from labd.model.states import LabState, NetworkState, NodeState


class Up(TemplateText):
    """Bring a lab up to what a template says."""

    keep: bool = Field(default=False, description="Leave what a failed up has made")
    force: bool = Field(
        default=False, description="Power nodes that an edit restarts off without asking them"
    )
    timeout: float | None = Field(default=None, gt=0, le=_SECONDS, description="Seconds")
    lease: LeaseTerm | None = Field(default=None, description="That it has from now on")


ActionKind = Literal["down", "destroy", "start", "stop", "restart", "pause", "resume", "reset"]


class Action(Body):
    """Do something to a lab, or to some of its nodes."""

    action: ActionKind
    nodes: list[Name] = Field(default=[], max_length=500)
    force: bool = Field(default=False, description="Power off without asking the guest")
    grace: float = Field(default=20.0, ge=0, le=3600, description="Seconds a guest has to obey")


class NodeBrief(Wire):
    """A node in a list."""

    name: str
    state: NodeState
    reason: str
    since: str


class LabBrief(Wire):
    """A lab in a list."""

    name: str
    key: str
    template: str
    state: LabState
    wanted: Wanted
    reason: str
    created: str
    origin: str = Field(description="Key of the checkpoint it was started from, or empty")
    nodes: list[NodeBrief]


class Labs(Wire):
    """All labs by name."""

    labs: list[LabBrief]


class Node(Wire):
    """A node, as it is and as it shall be."""

    lab: str
    name: str
    state: NodeState
    wanted: Wanted
    reason: str
    since: str
    key: str
    uuid: str
    uid: int
    pid: int | None = Field(description="Of its QEMU; null while there is none")
    starts: int
    accel: str = Field(description="`kvm`, `tcg`, or empty before the first start")
    vcpus: int | None = Field(description="Of the last start; null before it")
    memory: int | None = Field(description="Bytes, of the last start; null before it")
    addresses: list[str] = Field(description="As the template gives them")
    spec: NodeSpec | None = Field(description="Null for a node that the lab's spec has no more")


class Network(Wire):
    """A network of a lab."""

    name: str
    bridge: str
    state: NetworkState
    subnet: str
    uplink: str
    members: list[str]


class Published(Wire):
    """A port of the host that leads to a node."""

    node: str
    address: str = Field(description="Of the host")
    host_port: int
    port: int = Field(description="Of the node")


class Lab(Wire):
    """A lab, whole."""

    name: str
    key: str
    template: str
    state: LabState
    wanted: Wanted
    reason: str
    created: str
    origin: str = Field(description="Key of the checkpoint it was started from, or empty")
    nodes: list[Node]
    networks: list[Network]
    published: list[Published]
    lease: Lease | None = Field(description="Until when it may run; null: for ever")
    operation: Operation | None = Field(description="The one that holds the lab now")
    spec: LabSpec


class Change(Wire):
    """One step of a plan."""

    action: str
    kind: str
    name: str
    why: str


class Plan(Wire):
    """What `up` would do, in order."""

    changes: list[Change]


def show_brief(record: LabRecord, nodes: Sequence[NodeRecord]) -> LabBrief:
    """Show a lab in a list."""
    return LabBrief(
        name=record.name,
        key=record.key,
        template=record.spec.template,
        state=record.state,
        wanted=record.wanted,
        reason=record.reason,
        created=record.created,
        origin=record.origin,
        nodes=[
            NodeBrief(name=n.name, state=n.state, reason=n.reason, since=n.since) for n in nodes
        ],
    )


def show_node(record: NodeRecord, lab: LabSpec | None) -> Node:
    """Show a node; `lab` is the spec that it belongs to."""
    spec = _spec_of(lab, record.name)
    machine = record.machine
    return Node(
        lab=record.lab,
        name=record.name,
        state=record.state,
        wanted=record.wanted,
        reason=record.reason,
        since=record.since,
        key=record.key,
        uuid=record.uuid,
        uid=record.uid,
        pid=record.process.pid if record.process else None,
        starts=record.starts,
        accel="" if machine is None else ("kvm" if machine.kvm else "tcg"),
        vcpus=machine.vcpus if machine else None,
        memory=machine.memory if machine else None,
        addresses=[a for nic in spec.nics for a in nic.addresses] if spec else [],
        spec=spec,
    )


def _spec_of(lab: LabSpec | None, name: str) -> NodeSpec | None:
    if lab is None:
        return None
    return next((node for node in lab.nodes if node.name == name), None)


def bare_spec(spec: LabSpec) -> LabSpec:
    """Return a spec without what a template says of the inside: its answers, keys and secrets."""
    nodes = tuple(
        NodeSpec(name=node.name, nics=node.nics, display=node.display, publish=node.publish)
        for node in spec.nodes
    )
    return LabSpec(template=spec.template, nodes=nodes, networks=spec.networks)


def show_lab(view: LabView, *, bare: bool = False) -> Lab:
    """Show a lab, whole or bare."""
    record = replace(view.lab, spec=bare_spec(view.lab.spec)) if bare else view.lab
    return Lab(
        name=record.name,
        key=record.key,
        template=record.spec.template,
        state=record.state,
        wanted=record.wanted,
        reason=record.reason,
        created=record.created,
        origin=record.origin,
        nodes=[show_node(item, record.spec) for item in view.nodes],
        networks=[
            Network(
                name=net.name,
                bridge=net.bridge,
                state=net.state,
                subnet=net.subnet,
                uplink=net.uplink,
                members=list(net.members),
            )
            for net in view.networks
        ],
        published=[
            Published(
                node=item.node,
                address=item.spec.address,
                host_port=item.chosen,
                port=item.spec.port,
            )
            for item in view.published
        ],
        lease=show_lease(view.lease) if view.lease else None,
        operation=show_operation(view.operation) if view.operation else None,
        spec=record.spec,
    )
