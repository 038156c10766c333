"""What `up` would change: two specs compared field by field. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Final

from labd.features.labs.hotplug import HOT_FIELDS, needs_replacing, obstacle, outline
from labd.features.labs.views import Change
from labd.model.specs import CloudInitSpec, LabSpec, NetworkSpec, NodeSpec, Readiness, RestartPolicy
from labd.model.units import format_size
from labd.template.form import NodeForm
from labd.template.keys import Effect, effects, is_bytes, keys
from labd.template.network_form import NetworkForm
from labd.template.node_parts import CloudInitForm, DiskForm

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FORMS = (NodeForm, DiskForm, CloudInitForm)
_BYTES = {name for form in _FORMS for name, field, _ in keys(form) if is_bytes(field)}
_PARTS = (RestartPolicy, Readiness, CloudInitSpec)  # told field by field
_TEXTS = {name for form in _FORMS for name, _, said in keys(form) if said.long}
_NETWORK_EFFECTS: Final = effects(NetworkForm)


def differences(old: DataclassInstance, new: DataclassInstance, prefix: str = "") -> list[str]:
    """Return `field: old -> new` for each field of two dataclass values that differs."""
    found = []
    for item in fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if before == after:
            continue
        name = f"{prefix}{item.name}"
        if isinstance(before, _PARTS) and isinstance(after, type(before)):
            found.extend(differences(before, after, f"{name}."))
        else:
            found.append(f"{name}: {_show(item.name, before)} -> {_show(item.name, after)}")
    return found


def _show(field: str, value: object) -> str:
    if value is None or value in ("", ()):
        return "none"
    if field in _TEXTS:
        return "a text of " + hashlib.sha256(str(value).encode()).hexdigest()[:8]
    if field in _BYTES and isinstance(value, int):
        return format_size(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_brief(item) for item in value) + "]"
    return str(value)


def _brief(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        shown = [str(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name)]
        return " ".join(shown)
    return str(value)


def needs_new_ports(old: NetworkSpec, new: NetworkSpec) -> bool:
    """True if the nodes in a network must be built anew when it changes.

    How a network leaves the lab is not the business of its nodes; a new default route is told by
    the nodes' own specs.
    """
    return any(
        getattr(old, item.name) != getattr(new, item.name)
        for item in fields(NetworkSpec)
        if _NETWORK_EFFECTS.get(item.name, Effect.RESTART) is Effect.RESTART
    )


def plan_changes(
    old: LabSpec | None,
    new: LabSpec,
    running: Collection[str],
    isos: Collection[str] = (),
) -> list[Change]:
    """Return the steps from one spec to another, in the order in which they would be done.

    Args:
        old: The present spec, None when there is no lab yet.
        new: The wanted one, with its slots (`slots.pin`).
        running: Names of the nodes that run at present.
        isos: Names of the nodes whose image is an ISO.
    """
    changes = [] if old is not None else [Change(action="create", kind="lab", name=new.template)]
    old_nodes: dict[str, NodeSpec] = {n.name: n for n in old.nodes} if old else {}
    old_nets: dict[str, NetworkSpec] = {n.name: n for n in old.networks} if old else {}
    new_nodes = {n.name: n for n in new.nodes}
    new_nets = {n.name: n for n in new.networks}
    for kind, gone in (
        ("node", old_nodes.keys() - new_nodes.keys()),
        ("network", old_nets.keys() - new_nets.keys()),
    ):
        changes.extend(Change(action="remove", kind=kind, name=name) for name in sorted(gone))
    for name, net in new_nets.items():
        if name not in old_nets:
            changes.append(Change(action="create", kind="network", name=name))
        elif old_nets[name] != net:
            why = "; ".join(differences(old_nets[name], net))
            action = "replace" if needs_new_ports(old_nets[name], net) else "update"
            changes.append(Change(action=action, kind="network", name=name, why=why))
    for name, node in new_nodes.items():
        before = old_nodes.get(name)
        if before is None:
            changes.append(Change(action="create", kind="node", name=name))
        elif before != node:
            changes.append(_node_change(before, node, iso=name in isos))
        elif name not in running:
            changes.append(Change(action="start", kind="node", name=name))
    return changes


def _node_change(old: NodeSpec, new: NodeSpec, *, iso: bool) -> Change:
    if needs_replacing(old, new, iso=iso):
        reason = obstacle(old, new, iso=iso)
        why = [*differences(old, new), *([f"({reason})"] if reason else [])]
        return Change(action="replace", kind="node", name=new.name, why="; ".join(why))
    cold = {name: getattr(old, name) for name in HOT_FIELDS}
    why = [*differences(old, replace(new, **cold)), *outline(old, new)]
    return Change(action="update", kind="node", name=new.name, why="; ".join(why))
