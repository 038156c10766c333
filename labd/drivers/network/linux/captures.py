"""The captures adapter (`drivers.network.port.Captures`)."""

from __future__ import annotations

from labd import __version__
from labd.drivers.network.linux import netns, packets, pcapng
from labd.drivers.network.linux.bpf import compile_filter
from labd.model.errors import Conflict

LIMIT = 64  # at one time; each may take `packets.BUFFER` bytes of the kernel's memory


class LabCaptures:
    """The captures of all labs of one root; they end with the daemon."""

    def __init__(self) -> None:
        self._open: dict[packets.PacketStream, str] = {}

    async def open(
        self, namespace: str, device: str, name: str, filter: str, count: int
    ) -> packets.PacketStream:
        """Begin to capture; see the port."""
        self._open = {stream: where for stream, where in self._open.items() if not stream.closed}
        if len(self._open) >= LIMIT:
            raise Conflict(f"{LIMIT} captures run already; end one of them first")
        program = await compile_filter(filter)
        made = await netns.inside(namespace, lambda: packets.open_socket(device, program))
        head = pcapng.header(f"labd {__version__}") + pcapng.interface(device, name, filter)
        stream = packets.PacketStream(made, head, count)
        self._open[stream] = namespace
        return stream

    def end_all(self, namespace: str, reason: str) -> None:
        """End all captures of a lab; see the port."""
        for stream in [s for s, where in self._open.items() if where == namespace]:
            del self._open[stream]
            stream.stop(reason)
            stream.close()  # the namespace lives as long as its last socket
