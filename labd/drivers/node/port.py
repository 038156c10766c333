"""The contract of a kind of node: machines that are launched, adopted, paused and ended.

Whatever else a kind may offer stands in `capabilities`; `driver.NodeDriver` is both together.
tests/contract/test_nodes.py is the suite that a driver has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from labd.model.machine import (
    FoundMachine,
    GuestEvent,
    MachineSpec,
    RunState,
)
from labd.model.process import ProcessId, Spawned


class NodePort(Protocol):
    """The life of the machines of one kind.

    Every call but `launch` ends within its own deadline (seconds, default 5).

    Calls by key raise `NodeGone` for a machine that has ended or was never known, and
    `NodeUnresponsive` when it misses the deadline (which also sends UNRESPONSIVE once).
    """

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        """Have `listener` called in the loop, in order per machine, for each guest event.

        Set once, before anything is launched. EXITED is the last event of a machine.
        """

    def has(self, key: str) -> bool:
        """True if this driver has a machine by this key, one that hangs too; calls go to it.

        A machine is had from the beginning of its `launch` or `adopt` to its EXITED.
        """

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], *, spawned: Spawned | None = None
    ) -> ProcessId:
        """Start QEMU with its CPUs stopped (-S), connect, and check it over QMP.

        The serial line is recorded from before the first guest instruction.

        Args:
            machine: What it is.
            taps: `Nic.id` -> open tap descriptor; they are closed in this process on return,
                whatever happens.
            spawned: Called once there is a process, and awaited while QEMU comes up. It has ended
                when this returns; its error fails the launch.

        Raises:
            LaunchFailed: With QEMU's stderr; no process and no socket is left.
        """

    async def adopt(self, machine: MachineSpec, process: ProcessId) -> RunState:
        """Take over a process that an earlier daemon launched, once it has proved its identity.

        Raises:
            NodeGone: That very process lives no more (boot id, start time or UUID differ).
            NodeUnresponsive: It lives but QMP did not answer; it is known from now on, and a
                RESPONSIVE event follows if it recovers.
        """

    async def scan(self) -> Sequence[FoundMachine]:
        """Find every QEMU process that belongs to this root, known or not."""

    async def resume(self, key: str) -> None:
        """Let the CPUs run (QMP `cont`)."""

    async def pause(self, key: str) -> None:
        """Stop the CPUs (QMP `stop`)."""

    async def reset(self, key: str) -> None:
        """Reset the machine (QMP `system_reset`), also out of a panic."""

    async def power_down(self, key: str) -> None:
        """Ask the guest to power off: agent when it is open, else ACPI (`system_powerdown`)."""

    async def kill(self, key: str, *, discard: bool = False) -> None:
        """End the process and wait for its end; no error when there is none (idempotent).

        QMP `quit` first when it is responsive, then SIGKILL through a pidfd. With `discard` it is
        SIGKILL at once: its disks are removed next, so nothing has to be written to them.

        Raises:
            NodeStuck: It was killed and does not end. STUCK is told, once; EXITED follows when it
                has ended after all.
        """

    async def kill_process(self, process: ProcessId) -> None:
        """End a process found by `scan` that nobody knows, and wait for its end (SIGKILL).

        Raises:
            NodeStuck: It does not end.
        """

    async def query(self, key: str) -> RunState:
        """Ask QEMU what it is doing (`query-status`)."""

    def rename(self, machine: MachineSpec) -> None:
        """Call a running machine what its new spec calls it; QEMU's own `-name` stays."""

    async def forget(self, *machines: MachineSpec) -> None:
        """Remove sockets, logs and run folders of machines that have ended (idempotent)."""

    def message_log(self, machine: MachineSpec) -> Path:
        """Return the path of what QEMU itself said since the launch."""

    async def close(self) -> None:
        """Let go of every machine without touching it."""
