"""Kinds of nodes: which there are, and what a node asks of its own."""

from __future__ import annotations

from labd.model.kinds import Kinds
from labd.model.names import did_you_mean
from labd.model.needs import needs
from labd.model.specs import NodeSpec
from labd.template.complaints import Complaints
from labd.template.document import Path


def check_kind(node: NodeSpec, kinds: Kinds, path: Path, complaints: Complaints) -> None:
    """Complain of a kind that nobody knows, and of what a node asks that its kind lacks."""
    where = f"node {node.name}"
    if node.kind not in kinds:
        complaints.wrong(
            f"{where}, kind: there is no kind {node.kind!r}{did_you_mean(node.kind, kinds)}; "
            f"known: {', '.join(sorted(kinds))}",
            (*path, "kind"),
        )
        return
    for capability, at in needs(node):
        if capability not in kinds[node.kind]:
            complaints.wrong(
                f"{where}: kind {node.kind} has no {capability}; leave {at[-1]} out, or use "
                "another kind",
                (*path, *at),
            )
