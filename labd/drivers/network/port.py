"""The contract of a kind of network: what segments of labs need of their host."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from labd.model.activity import Glance
from labd.model.captures import CaptureEnd
from labd.model.impairment import Impairment
from labd.model.links import ShapePlan
from labd.model.network import LabNetworkPlan
from labd.model.publish import Bound
from labd.model.serving import Lease, Neighbour, ServerChange
from labd.model.usage import PortUsage


class Networks(Protocol):
    """Namespaces, bridges and taps. Touches nothing that labd did not make."""

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Make namespace and bridges as planned; what is there already stays (idempotent).

        Bridges of the namespace that the plan does not have are removed.

        Raises:
            NetworkFailed: Nothing that this call made is left.
        """

    async def open_taps(
        self, plan: LabNetworkPlan, keys: Iterable[str]
    ) -> dict[str, dict[str, int]]:
        """Make the non-persistent taps of the machines `keys` in one batch; key -> nic -> fd.

        The caller owns the descriptors; closing one removes its tap.
        """

    async def unplug(self, namespace: str) -> None:
        """Delete all taps of a lab in one go, although machines have them open (idempotent).

        Closing them one after the other, as machines end, takes 20 ms each.
        """

    async def remove(self, namespace: str) -> None:
        """Delete the namespace with everything in it (idempotent)."""

    async def namespaces(self) -> Sequence[str]:
        """Return the names of the namespaces of this root."""

    async def bridges(self, namespace: str) -> Sequence[str]:
        """Return the bridges inside a namespace; empty when it is not there."""

    async def probe_tcp(self, namespace: str, address: str, port: int, timeout: float) -> bool:
        """True if a TCP connection from inside the namespace is accepted."""


class Uplinks(Protocol):
    """NAT to the outside, bridges of the host, and what labd routes between a lab's networks."""

    async def check(self, plan: LabNetworkPlan) -> None:
        """True if the uplinks of a plan could be had; changes nothing.

        Raises:
            InputError: A bridge that is not listed or not there, no way to the outside, no free
                transit address.
            NetworkFailed: The kernel cannot do it; names its option.
        """

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Make the uplinks as planned, in a namespace that is there (idempotent).

        What an earlier plan had and this one has not is removed.

        Raises:
            NetworkFailed, InputError: Nothing is left of the uplinks of a lab that had none
                before; others keep rules that let through no more than the plan.
        """

    async def remove(self, namespace: str) -> None:
        """Remove the uplinks of a lab from the host, before its namespace goes (idempotent)."""

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove the uplinks of labs whose namespaces are not in `keep`; return whose went."""


class Links(Protocol):
    """What happens to frames on their way."""

    async def check(self, wanted: Iterable[Impairment]) -> None:
        """True if the kernel can do it; changes nothing.

        Raises:
            InputError: It cannot; names its option.
        """

    async def apply(self, namespace: str, shapes: Sequence[ShapePlan]) -> None:
        """Have exactly these impairments in a lab (idempotent).

        Taps that are not there, and a namespace that is not, are left out.

        Raises:
            NetworkFailed: The kernel refuses; calling again goes on.
        """


class Servers(Protocol):
    """A server of addresses and names for each lab that asks for one; it outlives labd."""

    def listen(self, listener: Callable[[ServerChange], None]) -> None:
        """Have `listener` called in the loop for each change. Set once, before anything else."""

    async def check(self, plan: LabNetworkPlan) -> None:
        """True if a plan could be served; changes nothing.

        Raises:
            CommandFailed: The program is not installed.
        """

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Have exactly the server of a plan, in a namespace with its bridges (idempotent).

        One of an earlier daemon is taken over, one that serves something else is told or replaced,
        and one that ends is started again.

        Raises:
            NetworkFailed, CommandFailed, StorageFailed: It does not start; nothing is left of the
                server of a lab that had none before.
        """

    async def remove(self, namespace: str) -> None:
        """End the server of a lab, before its namespace goes (idempotent)."""

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """End the servers of labs whose namespaces are not in `keep`; return their labs' keys."""

    async def leases(self, namespace: str) -> Sequence[Lease]:
        """Return the addresses that have been given out."""

    async def neighbours(self, namespace: str) -> Sequence[Neighbour]:
        """Return the addresses that were seen in a lab, with the MAC of each."""

    async def close(self) -> None:
        """Let go of every server without touching it."""


class Counters(Protocol):
    """Counters of the network."""

    async def read(self, namespace: str) -> Mapping[str, PortUsage]:
        """Return interface name -> what has passed it; empty where there is no such namespace.

        Raises:
            NetworkFailed: The kernel refused.
        """

    async def glance(self, namespace: str) -> Glance:
        """Return what has passed the taps, and when a byte last passed a connection.

        It is cheap enough to be asked often; empty where there is no such namespace.

        Raises:
            NetworkFailed: The kernel refused.
        """


class PacketCapture(Protocol):
    """One capture, as pcapng."""

    async def read(self) -> bytes:
        """Return the next blocks; empty when it has ended."""

    def stop(self, reason: str) -> None:
        """End it; what waits in `read` returns (idempotent)."""

    def end(self) -> tuple[bytes, CaptureEnd]:
        """Return the last block, and how it went; it is closed."""

    def close(self) -> None:
        """End it, and let go of everything (idempotent)."""


class Captures(Protocol):
    """Captures at the interfaces of labs. They end with the daemon, and leave nothing."""

    async def open(
        self, namespace: str, device: str, name: str, filter: str, count: int
    ) -> PacketCapture:
        """Begin to capture at an interface; the caller closes it.

        Args:
            namespace: Of the lab.
            device: Name of the interface.
            name: What people call it.
            filter: pcap-filter(7); empty for everything.
            count: Frames after which it ends; 0: no limit.

        Raises:
            InputError: The filter is wrong.
            Conflict: There are too many.
            NetworkFailed: There is no such interface.
            CommandFailed: There is nothing that compiles filters.
        """

    def end_all(self, namespace: str, reason: str) -> None:
        """End all captures of a lab, so that nothing of it is held any more."""


Dial = Callable[[], Awaitable[socket.socket]]


class Dialer(Protocol):
    """Makes TCP connections from inside a lab's namespace."""

    async def dial(self, namespace: str, address: str, port: int, timeout: float) -> socket.socket:
        """Return a connected, non-blocking socket; the caller closes it.

        Raises:
            NetworkFailed: There is no such namespace, or no connection within `timeout` seconds;
                `details["errno"]` says which, and `details["timed_out"]` that nobody answered.
        """


class PublishedPort(Protocol):
    """A port of the host that is listened at."""

    @property
    def port(self) -> int:
        """Its number."""

    async def close(self) -> None:
        """Listen no more, and end every connection that came through it (idempotent)."""


class PublishedPorts(Protocol):
    """Listens at ports of the host."""

    def open(
        self,
        address: str,
        port: int,
        dial: Dial,
        *,
        lab: str,
        refused: Callable[[Bound], None],
    ) -> PublishedPort:
        """Listen at once; each connection is passed on to one that `dial` makes.

        Args:
            address: Of the host.
            port: 0 lets the kernel choose one.
            dial: Connects to the node.
            lab: Whose bound its connections count for.
            refused: Is called for each connection that is refused, with the bound that is reached.

        Raises:
            InputError: The port is in use, or the address is none of this host.
        """
