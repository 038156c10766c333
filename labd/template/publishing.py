"""`publish` of nodes: ports of the host that lead to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from labd.model.errors import InputError
from labd.model.publish import endpoint, parse_publish
from labd.model.specs import PublishSpec
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import NodeForm

# A template may be anybody's, and labd listens as root: ports of the host's own services (RFC 6335,
# system ports) are not for it to give.
_FIRST_PORT: Final = 1024


class Publishing:
    """Checks the entries of all nodes of a lab."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._taken: dict[str, str] = {}  # endpoint of the host -> node

    def of(self, node: str, form: NodeForm, path: Path) -> Iterator[PublishSpec]:
        """Return what a node publishes; what is wrong is told."""
        if form.publish and not form.nics:
            self._complaints.wrong(
                f"node {node}: publish needs a nic, for the port is reached over the network",
                (*path, "publish"),
                key=True,
            )
        seen: set[PublishSpec] = set()
        for index, text in enumerate(form.publish):
            at: Path = (*path, "publish", index)
            where = f"node {node}, publish"
            try:
                spec = parse_publish(text)
            except InputError as error:
                self._complaints.wrong(f"{where}: {error.message}", at)
                continue
            if 0 < spec.host_port < _FIRST_PORT:
                self._complaints.wrong(
                    f"{where}: port {spec.host_port} is one of the host's own; write "
                    f"{_FIRST_PORT} to 65535, or 0 to have one chosen",
                    at,
                )
                continue
            here = endpoint(spec.address, spec.host_port)
            if spec in seen:
                self._complaints.wrong(f"{where}: {text} is there twice; keep one", at)
                continue
            seen.add(spec)
            other = self._taken.setdefault(here, node) if spec.host_port else node
            if spec.host_port and (other != node or self._is_again(seen, spec)):
                self._complaints.wrong(
                    f"{where}: {here} leads to node {other} already; choose another port, or 0 "
                    "to have one chosen",
                    at,
                )
                continue
            yield spec

    @staticmethod
    def _is_again(seen: set[PublishSpec], spec: PublishSpec) -> bool:
        """True if the node itself has that port of the host for another one of its own."""
        here = (spec.address, spec.host_port)
        return any((item.address, item.host_port) == here for item in seen - {spec})
