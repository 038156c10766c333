"""The seam to packets on their way; see `engine.ports`."""

from __future__ import annotations

from typing import Protocol

from labd.model.captures import CaptureEnd


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
