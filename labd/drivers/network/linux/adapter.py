"""The network adapter: one namespace a lab (`drivers.network.port.Networks`)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

from labd.drivers.network.linux import links, netns, nft, sockets
from labd.drivers.network.linux.guards import guard_rules
from labd.host.failpoints import failpoints
from labd.host.threads import quick
from labd.model.errors import NetworkFailed
from labd.model.network import LabNetworkPlan

log = logging.getLogger(__name__)

_GUARDED = " guarded"  # behind the mark of a namespace


class LabNetworks:
    """Namespaces, bridges and taps of one root.

    Args:
        root_id: Marks what is this root's; nothing without the mark is ever touched.
    """

    def __init__(self, root_id: str) -> None:
        self._prefix = f"labd-{root_id}-"
        self._mark = f"labd:{root_id}"

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Make namespace and bridges as planned; see the port."""
        async with AsyncExitStack() as undo:
            guarded = False
            if await netns.create(plan.namespace):
                undo.push_async_callback(netns.remove, plan.namespace)
                await failpoints.reach("network.namespace-made")
                await netns.inside(plan.namespace, lambda: links.prepare_namespace(self._mark))
            else:
                guarded = await self._require_mark(plan.namespace)
            # Before there is a tap that could send.
            if guarded or plan.guards:
                await self._guard(plan, guarded=guarded)
            await netns.inside(
                plan.namespace, lambda: links.apply_bridges(plan.bridges, self._mark)
            )
            undo.pop_all()

    async def _guard(self, plan: LabNetworkPlan, *, guarded: bool) -> None:
        """Load the rules of `port_security`; that there are some stands in the namespace's mark."""
        space, mark = plan.namespace, self._mark + _GUARDED
        if not guarded:
            await netns.inside(space, lambda: links.mark_namespace(mark))
        await nft.load(guard_rules(plan.guards), namespace=space, what="port_security")
        if not plan.guards:
            await netns.inside(space, lambda: links.mark_namespace(self._mark))

    async def _require_mark(self, namespace: str) -> bool:
        """True if a namespace has rules of `port_security`.

        Raises:
            NetworkFailed: It is not labd's.
        """
        if await netns.inside(namespace, lambda: links.is_foreign(self._mark)):
            raise NetworkFailed(
                f"namespace {namespace} was not made by labd; rename or delete it: "
                f"ip netns del {namespace}"
            )
        mark = await netns.inside(namespace, links.mark_of_namespace)
        if mark == "":
            await netns.inside(namespace, lambda: links.prepare_namespace(self._mark))
        return mark.endswith(_GUARDED)

    async def open_taps(
        self, plan: LabNetworkPlan, keys: Iterable[str]
    ) -> dict[str, dict[str, int]]:
        """Make the taps of some machines in one batch; see the port."""
        wanted = set(keys)
        ports = [port for port in plan.ports if port.key in wanted]
        result: dict[str, dict[str, int]] = {key: {} for key in wanted}
        if not ports:
            return result
        made: dict[tuple[str, str], int] = {}
        try:
            await netns.inside(plan.namespace, lambda: made.update(links.open_taps(ports)))
        except BaseException:
            for fd in made.values():
                os.close(fd)
            raise
        for (key, nic), fd in made.items():
            result[key][nic] = fd
        return result

    async def unplug(self, namespace: str) -> None:
        """Delete all taps of a lab in one go; see the port."""
        if await quick(netns.exists, namespace):
            await netns.inside(
                namespace, lambda: None if links.is_foreign(self._mark) else links.delete_taps()
            )

    async def remove(self, namespace: str) -> None:
        """Delete a namespace of this root; see the port."""
        if not namespace.startswith(self._prefix):
            raise NetworkFailed(f"namespace {namespace} is not of this root")
        if await quick(netns.exists, namespace):
            try:
                own = await netns.inside(namespace, self._end_connections)
            except NetworkFailed:
                # Somebody else who ends the same lab may have been quicker.
                if await quick(netns.exists, namespace):
                    raise
            else:
                if not own:
                    log.warning("namespace %s stays: it was not made by labd", namespace)
                    return
        await netns.remove(namespace)

    def _end_connections(self) -> bool:
        """End those of this namespace; tell whether it is labd's."""
        if links.is_foreign(self._mark):
            return False
        try:
            sockets.end_connections()
        except NetworkFailed as error:
            # A kernel without it: their keep-alive ends them later (dialer).
            log.info("connections into a lab are not ended: %s", error)
        return True

    async def namespaces(self) -> Sequence[str]:
        """Return the names of the namespaces of this root."""
        return await quick(netns.names, self._prefix)

    async def bridges(self, namespace: str) -> Sequence[str]:
        """Return the bridges inside a namespace; empty when it is not there, or another's."""
        if not await quick(netns.exists, namespace):
            return []
        return await netns.inside(
            namespace, lambda: [] if links.is_foreign(self._mark) else links.bridge_names()
        )

    async def probe_tcp(self, namespace: str, address: str, port: int, timeout: float) -> bool:
        """True if a TCP connection from inside the namespace is accepted."""
        is_v6 = ipaddress.ip_address(address).version == 6
        family = socket.AF_INET6 if is_v6 else socket.AF_INET

        def open_socket() -> socket.socket:
            # A socket stays in the namespace in which it was made.
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            made.setblocking(False)
            return made

        channel = await netns.inside(namespace, open_socket)
        with channel:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.get_running_loop().sock_connect(channel, (address, port))
            except (OSError, TimeoutError):
                return False
        return True
