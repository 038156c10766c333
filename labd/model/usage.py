"""What running nodes take of the host. Counters grow from a process's start on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """What one process has taken.

    Attributes:
        cpu: Seconds of all its threads.
        own: Bytes of memory that it shares with no other: its anonymous pages.
        shared: Bytes of memory that others may use, too; of a fork, the frozen memory.
        written: Bytes that it had the disk write.
    """

    cpu: float
    own: int
    shared: int
    written: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortUsage:
    """What has passed a tap, as the guest sees it: `received` is what it got."""

    received_packets: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    def __add__(self, other: PortUsage) -> PortUsage:
        """Return the sum of two ports."""
        return PortUsage(
            received_packets=self.received_packets + other.received_packets,
            sent_packets=self.sent_packets + other.sent_packets,
            received_bytes=self.received_bytes + other.received_bytes,
            sent_bytes=self.sent_bytes + other.sent_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUsage:
    """What one node has taken since its QEMU was started."""

    lab: str
    node: str
    state: str
    vcpus: int
    memory: int
    process: ProcessUsage
    ports: PortUsage = field(default_factory=PortUsage)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUsage:
    """What the host has, and what is left of it. Bytes.

    Attributes:
        memory_low: It is short of memory, so that the newest labs are paused.
    """

    cpus: int
    memory: int
    memory_available: int
    disk_available: int
    memory_low: bool = False
