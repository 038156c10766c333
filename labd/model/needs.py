"""What the spec of a node asks of its kind."""

from __future__ import annotations

from collections.abc import Iterator

from labd.model.kinds import Capability
from labd.model.specs import Accel, Display, NodeSpec

Path = tuple[str | int, ...]


def needs(node: NodeSpec) -> Iterator[tuple[Capability, Path]]:
    """Yield what a node asks of its kind, each with the place in its spec that does so."""
    if node.display is not Display.NONE:
        yield Capability.SCREEN, ("display",)
    if node.accel is Accel.KVM:
        yield Capability.ACCELERATOR, ("accel",)
    if node.ready.console:
        yield Capability.CONSOLE, ("ready", "console")
    if node.ready.agent:
        yield Capability.AGENT, ("ready",)
    if node.ready.command:
        yield Capability.AGENT, ("ready", "command")
    for key in ("files", "startup"):
        if getattr(node, key):
            yield Capability.AGENT, (key,)
    if node.on_fork:
        yield Capability.CHECKPOINT, ("on_fork",)
    for nic in node.nics:
        if nic.down:
            yield Capability.CARRIER, ("nics", nic.name, "state")
