"""Values of the engine as they go over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from labd.features import models
from labd.features.facade import LabView, PluginView
from labd.features.leases.views import LeaseView
from labd.model.lab_leases import LeaseAsk
from labd.model.records import LabRecord, NodeRecord, OperationRecord
from labd.model.specs import Image, LabSpec, NodeSpec, Profile


def operation(record: OperationRecord) -> models.Operation:
    """Show an operation."""
    return models.Operation(
        id=record.id,
        kind=record.kind,
        lab=record.lab,
        state=record.state,
        progress=dict(record.progress),
        error=None if record.error is None else dict(record.error),
        created=record.created,
        finished=record.finished,
    )


def lab_brief(record: LabRecord, nodes: Sequence[NodeRecord]) -> models.LabBrief:
    """Show a lab in a list."""
    return models.LabBrief(
        name=record.name,
        key=record.key,
        template=record.spec.template,
        state=record.state,
        wanted=record.wanted,
        reason=record.reason,
        created=record.created,
        origin=record.origin,
        nodes=[
            models.NodeBrief(name=n.name, state=n.state, reason=n.reason, since=n.since)
            for n in nodes
        ],
    )


def node(record: NodeRecord, lab: LabSpec | None) -> models.Node:
    """Show a node; `lab` is the spec that it belongs to."""
    spec = _spec_of(lab, record.name)
    machine = record.machine
    return models.Node(
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


def lease(view: LeaseView) -> models.Lease:
    """Show a lease."""
    return models.Lease(
        lab=view.lease.lab,
        stage=view.lease.stage,
        ends=view.ends,
        destroys=view.destroys,
        left=round(view.left, 3),
        keep=view.lease.keep,
        warn=list(view.lease.warn),
    )


def lease_ask(term: models.LeaseTerm) -> LeaseAsk:
    """Return what a request asks for."""
    return LeaseAsk(seconds=term.seconds, until=term.until, keep=term.keep, warn=tuple(term.warn))


def bare_spec(spec: LabSpec) -> LabSpec:
    """Return a spec without what a template says of the inside: its answers, keys and secrets."""
    nodes = tuple(
        NodeSpec(name=node.name, nics=node.nics, display=node.display, publish=node.publish)
        for node in spec.nodes
    )
    return LabSpec(template=spec.template, nodes=nodes, networks=spec.networks)


def lab(view: LabView, *, bare: bool = False) -> models.Lab:
    """Show a lab, whole or bare."""
    record = replace(view.lab, spec=bare_spec(view.lab.spec)) if bare else view.lab
    return models.Lab(
        name=record.name,
        key=record.key,
        template=record.spec.template,
        state=record.state,
        wanted=record.wanted,
        reason=record.reason,
        created=record.created,
        origin=record.origin,
        nodes=[node(item, record.spec) for item in view.nodes],
        networks=[
            models.Network(
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
            models.Published(
                node=item.node,
                address=item.spec.address,
                host_port=item.chosen,
                port=item.spec.port,
            )
            for item in view.published
        ],
        lease=lease(view.lease) if view.lease else None,
        operation=operation(view.operation) if view.operation else None,
        spec=record.spec,
    )


def compiled(spec: LabSpec) -> models.Compiled:
    """Show what a template says."""
    return models.Compiled(
        name=spec.template,
        description=spec.description,
        nodes=[item.name for item in spec.nodes],
        networks=[item.name for item in spec.networks],
        spec=spec,
    )


def image(value: Image) -> models.Image:
    """Show an image."""
    return models.Image.model_validate(asdict(value))


def image_use(value: Image, users: Sequence[str]) -> models.ImageUse:
    """Show an image and who needs it."""
    return models.ImageUse.model_validate({**asdict(value), "used_by": list(users)})


def profile(value: Profile) -> models.Profile:
    """Show a profile."""
    return models.Profile.model_validate(asdict(value))


def plugin(view: PluginView) -> models.Plugin:
    """Show a plugin."""
    return models.Plugin(
        name=view.name,
        description=view.description,
        version=view.version,
        events=list(view.events),
        scopes=list(view.scopes),
        settings_schema=dict(view.settings_schema),
        enabled=view.record is not None and view.record.enabled,
        settings=dict(view.record.settings) if view.record else {},
        state=view.state,
        restarts=view.restarts,
        problem=view.problem,
    )
