"""`ready` of nodes: how a node shows that it is ready."""

from __future__ import annotations

from labd.model.specs import Gateway, Readiness
from labd.template.addresses import BY_DHCP
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import LabForm, NodeForm
from labd.template.patterns import trouble


def readiness(name: str, form: NodeForm, lab: LabForm, complaints: Complaints) -> Readiness:
    """Return how a node shows that it is ready; what is wrong goes to `complaints`."""
    ready = form.ready
    path: Path = ("nodes", name, "ready")
    ways = [way for way in ("console", "tcp", "agent", "command") if getattr(ready, way)]
    if len(ways) > 1:
        complaints.wrong(f"node {name}: ready takes one of {', '.join(ways)}; keep one", path)
    if problem := trouble(ready.console):
        complaints.wrong(f"node {name}: ready console: {problem}", (*path, "console"))
    if ready.tcp and _is_mapped(form, lab):
        complaints.wrong(
            f"node {name}: ready tcp needs a first address in a network that is labd's; this "
            "one is of a bridge of the host",
            (*path, "tcp"),
        )
    elif ready.tcp and not _is_probed(form):
        complaints.wrong(
            f"node {name}: ready tcp needs a nic with an address, the first one IPv4",
            (*path, "tcp"),
        )
    if not 1 <= ready.timeout <= 86400:
        complaints.wrong(f"node {name}: ready timeout must be 1s to 1d", (*path, "timeout"))
    return Readiness(
        console=ready.console,
        tcp_port=ready.tcp,
        agent=ready.agent,
        command=tuple(ready.command),
        timeout=ready.timeout,
    )


def _is_mapped(form: NodeForm, lab: LabForm) -> bool:
    """True if the node's first address is in a network in which labd has none."""
    first = next((n for n in form.nics.values() if n.address or n.addresses), None)
    network = lab.networks.get(first.network or "") if first is not None else None
    return (
        network is not None
        and network.uplink.startswith("bridge:")
        and network.gateway is not Gateway.LABD
    )


def _is_probed(form: NodeForm) -> bool:
    """True if labd can reach the node's first address: its own in a network is IPv4."""
    texts = [text for nic in form.nics.values() for text in (nic.address, *nic.addresses) if text]
    texts = [text for text in texts if text != BY_DHCP]
    return bool(texts) and ":" not in texts[0]
