"""Ways into labs: which address a name means, and the connection to it from inside."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.features.activity import ActivityService
from labd.model.access import KeyPair
from labd.model.activity import Source
from labd.model.errors import IllegalTransition, InputError, NetworkFailed, NotFound
from labd.model.names import NodeRef, did_you_mean, is_name
from labd.model.records import LabRecord
from labd.model.specs import LabSpec, NodeSpec
from labd.model.states import NODE_ALIVE, NodeState

TIMEOUT: Final = 10.0  # seconds for a connection to be accepted
_LAST_PORT = 65535
_NAME_LIMIT = 253  # characters of a host name, RFC 1035
# A guest that stands still accepts nothing: that is told at once, and not after the timeout.
_REACHABLE = NODE_ALIVE - {NodeState.STARTING, NodeState.PAUSED, NodeState.PANICKED}


def addresses_of(node: NodeSpec) -> list[str]:
    """Return the addresses of a node as the template gives them, IPv4 first; pure."""
    texts = [text.partition("/")[0] for nic in node.nics for text in nic.addresses]
    return sorted(texts, key=lambda text: ":" in text)


def subnets_of(spec: LabSpec) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the subnets of a lab, those of its networks and of its NICs; pure."""
    texts = [t for network in spec.networks for t in (network.subnet, network.subnet6) if t]
    texts += [text for node in spec.nodes for nic in node.nics for text in nic.addresses]
    return list(dict.fromkeys(ipaddress.ip_network(text, strict=False) for text in texts))


class ConnectService:
    """Connects into labs, and hands out the keys to their guests."""

    def __init__(
        self, adapters: Adapters, state_writer: StateWriter, activity: ActivityService
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._activity = activity

    async def to_node(self, ref: NodeRef, port: int, timeout: float = TIMEOUT) -> socket.socket:
        """Connect to a TCP port of a node from inside its lab; the caller closes the socket.

        Raises:
            InputError: No such port number, or the node has no address.
            IllegalTransition: The node does not run.
            NetworkFailed: Nobody listens there, or nobody answers.
        """
        lab = await self._state_writer.lab(ref.lab)
        return await self._to_node(lab, ref.node, port, timeout)

    async def to_host(
        self, lab: str, host: str, port: int, timeout: float = TIMEOUT
    ) -> socket.socket:
        """Connect to the name of a node, or to an address inside one of the lab's subnets.

        Raises:
            InputError, NotFound: There is no such place in the lab.
            NetworkFailed: As in `to_node`.
        """
        record = await self._state_writer.lab(lab)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return await self._to_node(record, _node_name(lab, host), port, timeout)
        subnets = subnets_of(record.spec)
        if not any(address in subnet for subnet in subnets):
            known = ", ".join(map(str, subnets)) or "none"
            raise InputError(f"{address} is in no subnet of lab {lab}; its subnets: {known}")
        _check_port(port)
        return await self._dial(record, f"{lab} {address}", [str(address)], port, timeout)

    async def _to_node(self, lab: LabRecord, name: str, port: int, timeout: float) -> socket.socket:
        _check_port(port)
        specs = {node.name: node for node in lab.spec.nodes}
        if name not in specs:
            raise NotFound(f"there is no node {lab.name}/{name}{did_you_mean(name, specs)}")
        node = await self._state_writer.node(NodeRef(lab.name, name))
        if node.state not in _REACHABLE:
            required = [str(NodeState.RUNNING), str(NodeState.READY)]
            raise IllegalTransition(f"{lab.name}/{name}", str(node.state), required, "reach")
        addresses = addresses_of(specs[name]) or await self._leases(lab.name, name)
        if not addresses:
            raise InputError(
                f"node {lab.name}/{name} has no address, so labd cannot reach it over the network; "
                f"give a nic one, or use: lab console {lab.name}/{name}"
            )
        return await self._dial(lab, f"{lab.name}/{name}", addresses, port, timeout)

    async def _leases(self, lab: str, node: str) -> list[str]:
        """Return the addresses that a node was given, IPv4 first."""
        rows = await self._adapters.inventory.leases(lab)
        return sorted((r.address for r in rows if r.node == node), key=lambda text: ":" in text)

    async def _dial(
        self, lab: LabRecord, what: str, addresses: Sequence[str], port: int, timeout: float
    ) -> socket.socket:
        """Try addresses in their order; the error of the first one is told."""
        namespace = self._adapters.namespace(lab)
        first: NetworkFailed | None = None
        for address in addresses:
            try:
                way = await self._adapters.dialer.dial(
                    namespace, address, port, timeout / len(addresses)
                )
            except NetworkFailed as error:
                first = first or error
            else:
                self._activity.touch(lab.name, Source.CONNECTION)
                return way
        assert first is not None  # noqa: S101 - there is at least one address
        raise NetworkFailed(f"cannot reach {what}: {first.message}", **first.details)

    async def key(self, lab: str) -> KeyPair:
        """Return the SSH key of a lab.

        Raises:
            NotFound: It has none yet, for it was never up.
        """
        record = await self._state_writer.lab(lab)
        found = await self._adapters.keys.read(record.key)
        if found is None:
            raise NotFound(f"lab {lab} has no SSH key yet; it gets one by: lab up")
        return found


def _node_name(lab: str, host: str) -> str:
    """Return the node that a host name means: `web`, `web.lab`, or `web.LAB`."""
    name, _, domain = host[:_NAME_LIMIT].rstrip(".").lower().partition(".")
    if not is_name(name) or domain not in {"", "lab", lab, f"{lab}.lab"}:
        raise InputError(
            f"{host[:64]!r} is neither a node of lab {lab} nor an address; "
            "write the node's name, like web"
        )
    return name


def _check_port(port: int) -> None:
    if not 1 <= port <= _LAST_PORT:
        raise InputError(f"port {port} is none: write 1 to {_LAST_PORT}")
