"""Images, nodes and labs for the tests of the engine, and its events as short lines."""

from __future__ import annotations

from typing import Any

from labd.model.events import Event
from labd.model.images import Image, ImageFormat
from labd.model.specs import (
    Dependency,
    DependsOn,
    LabSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    Readiness,
)
from labd.model.units import MIB

LIMIT = 30.0  # seconds after which a test that waits has failed, on a host with other work


def line(event: Event) -> str:
    """Return an event as a short line."""
    draft = event.draft
    words = [str(draft.type), draft.node or draft.subject]
    if draft.type == "lab.state":
        words.append(f"{draft.data['from']}>{draft.data['to']}")
    if draft.type.startswith("operation."):
        words.append(str(draft.data["kind"]))
    return " ".join(filter(None, words))


def image(name: str, digest: str = "") -> Image:
    return Image(
        name=name,
        format=ImageFormat.RAW,
        digest=f"sha256:{digest or name.encode().hex():0<64}",
        size=MIB,
        virtual_size=MIB,
        files=("disk",),
    )


def node(name: str, *needs: str, **fields: Any) -> NodeSpec:
    """Return a node that is ready when it says `guest: up`; `needs` are `NODE` or `NODE:ready`."""
    fields.setdefault("ready", Readiness(console="guest: up", timeout=LIMIT))
    fields.setdefault("nics", (NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01"),))
    depends = []
    for need in needs:
        other, _, condition = need.partition(":")
        depends.append(Dependency(node=other, condition=DependsOn(condition or "ready")))
    return NodeSpec(name=name, image="disk", memory=128 * MIB, depends_on=tuple(depends), **fields)


def spec(*nodes: NodeSpec, networks: tuple[str, ...] = ("lan",)) -> LabSpec:
    return LabSpec(
        template="t", nodes=nodes, networks=tuple(NetworkSpec(name=name) for name in networks)
    )
