"""What a kind of node may offer besides its life: consoles, agents, screens, devices...

Calls by key raise as those of `port.NodePort` do: `NodeGone`, `NodeUnresponsive`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from labd.model.checkpoints import (
    HostFacts,
    Incoming,
    Saved,
    SaveOrder,
)
from labd.model.keys import Chord
from labd.model.machine import AccelChoice, CpuSetting, Disk, ExecResult, MachineSpec, Nic
from labd.model.process import ProcessId
from labd.model.serving import GuestInterface
from labd.model.specs import Accel


class Console(Protocol):
    """One viewer of a serial line."""

    async def read(self) -> bytes:
        """Return the next output; empty when the node has gone."""

    async def write(self, data: bytes) -> None:
        """Type into the line."""


class Consoles(Protocol):
    """Serial lines of machines."""

    async def wait_console(self, key: str, pattern: str) -> str:
        """Return the first serial line since the launch or reset in which `pattern` is found.

        Waits without limit of its own; ends with NodeGone when the machine ends.
        """

    def console(self, key: str) -> AbstractAsyncContextManager[Console]:
        """Attach one more viewer; it first reads the last 4 KiB of what was said."""

    def console_log(self, machine: MachineSpec) -> Path:
        """Return the path of the bounded serial log; `.1` beside it is the older half.

        Each half has its index of times (`labd.host.timelog`).
        """


class Agents(Protocol):
    """Commands in guests, by their agents."""

    async def agent_ping(self, key: str) -> bool:
        """True if the guest agent answers."""

    async def agent_exec(
        self, key: str, argv: Sequence[str], timeout: float, stdin: bytes = b""
    ) -> ExecResult:
        """Run a command by the guest agent (`guest-exec`).

        Raises:
            GuestAgentAbsent: No agent.
            GuestFailed: It has no such program, or it took over `timeout` seconds.
        """


class Accelerators(Protocol):
    """How the CPUs of machines run."""

    async def accel(self, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        """Choose the accelerator and the CPU; what a live probe finds to work is remembered.

        Args:
            wanted: `auto` becomes KVM where it works, else TCG.
            cpu: With `kvm`, the only CPU that will do; None for the best that works.

        Raises:
            LaunchFailed: `kvm` was asked for and cannot be opened.
            AcceleratorFailed: `kvm` was asked for, and QEMU dies with it.
        """


class ViewerStream(Protocol):
    """One viewer's connection to a screen: bytes of RFB (RFC 6143), both ways."""

    async def read(self) -> bytes:
        """Return the next bytes; empty when the machine has gone."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the viewer."""

    async def close(self) -> None:
        """Leave (idempotent)."""


class Screens(Protocol):
    """The screens of machines that were launched with one."""

    async def screenshot(self, key: str) -> bytes:
        """Return the picture as PNG.

        Raises:
            QmpRefused: QEMU cannot make it.
            WorldError: What QEMU made is no picture, or too large.
        """

    async def press(self, key: str, chords: Sequence[Chord]) -> None:
        """Press and release the keys of each chord, one chord after the other."""

    async def viewer(self, key: str) -> ViewerStream:
        """Connect one more viewer."""


class Devices(Protocol):
    """NICs and disks that come and go while a machine runs; `machine` is as it shall be then.

    All are idempotent: what is there already stays, what has gone stays gone, and what an earlier
    daemon left half done is done anew.

    Besides the errors of calls by key they raise `QmpRefused` when QEMU has no place for a device,
    and nothing of it is left then.
    """

    async def plug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        """Attach a disk of `machine`; its file is there.

        Raises:
            LaunchFailed: The file cannot be opened.
        """

    async def unplug_disk(self, machine: MachineSpec, disk: Disk) -> None:
        """Detach a disk, and wait until the guest has let go of it.

        Raises:
            GuestFailed: It has not in time; it may still do so later.
        """

    async def plug_nic(
        self, machine: MachineSpec, nic: Nic, open_tap: Callable[[], Awaitable[int]]
    ) -> None:
        """Attach a NIC of `machine` to a tap.

        The tap is opened only when the NIC is not there yet, for a tap has one holder; and it is
        closed in this process on return.
        """

    async def unplug_nic(self, machine: MachineSpec, nic: Nic) -> None:
        """Detach a NIC, wait until the guest has let go of it, and close its tap.

        Raises:
            GuestFailed: It has not in time; it may still do so later.
        """

    async def change_medium(self, machine: MachineSpec, drive: Disk) -> None:
        """Put a CD into a drive of `machine`, or take it out (`Disk.empty`), locked or not.

        Raises:
            LaunchFailed: The file cannot be opened.
        """


class Interfaces(Protocol):
    """What guests say of their networks."""

    async def interfaces(self, key: str, timeout: float) -> Sequence[GuestInterface]:
        """Return the interfaces of a guest, as its agent tells them.

        Raises:
            NodeGone: The machine has ended.
            GuestFailed: No agent, or no answer within `timeout` seconds.
        """


class GuestFiles(Protocol):
    """Files of guests, by their agents.

    Both raise `NodeGone`, `GuestAgentAbsent` without an agent, and `GuestFailed` with the guest's
    own words when it refuses.
    """

    def read(self, key: str, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file, in parts of at most 512 KiB."""

    async def write(self, key: str, path: str, content: AsyncIterator[bytes]) -> int:
        """Make or overwrite a file; return its bytes. A failure may leave a part of it."""


class Snapshots(Protocol):
    """Machines that are saved, and machines that start from what was saved."""

    async def facts(self) -> HostFacts:
        """Return what a frozen state needs of this host; asked once in a daemon's life."""

    def fingerprint(self, machine: MachineSpec) -> str:
        """Return a digest of everything that the guest can see of its machine. Pure."""

    def own_files(self, machine: MachineSpec) -> Sequence[str]:
        """Return the names of files in the machine's folder that are saved by copying. Pure."""

    async def save(self, orders: Sequence[SaveOrder], *, go_on: bool) -> Saved:
        """Stop machines behind one barrier, write their state, and give their disks new tops.

        The memory is copied while they run, into `SaveOrder.stream`; each stands still only for
        the rest. With `go_on` those that ran run again when this returns.

        Raises:
            LabdError: One failed; all run on as they did. Disks that have a new top keep it.
        """

    async def abandon(self, key: str, *, run: bool) -> None:
        """End a save that an earlier daemon began, or take back one that did not `go_on`."""

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], incoming: Incoming
    ) -> ProcessId:
        """Start a machine from a frozen state, its CPUs stopped; as `NodePort.launch`."""

    async def loaded(self, key: str) -> None:
        """Wait until the machine has loaded its state; its CPUs are still stopped.

        Raises:
            LaunchFailed: QEMU refused it; with its words.
        """

    async def announce(self, key: str) -> None:
        """Have the NICs of a machine tell their bridges where they are (QMP `announce-self`)."""

    async def set_clock(self, key: str) -> bool:
        """Set the guest's clock to the host's by its agent; False when there is no agent.

        Waits some seconds for an agent that has been there before.

        Raises:
            GuestFailed: The agent could not.
        """

    async def authorize(self, key: str, keys: Mapping[str, Sequence[str]]) -> bool:
        """Let in by ssh who has these keys of a user, and nobody else; False without an agent.

        Raises:
            GuestFailed: The agent could not.
        """


class Carriers(Protocol):
    """The carrier that guests see. Raises as the calls of `port.NodePort` by key do."""

    async def set_carrier(self, key: str, nic: str, *, up: bool) -> None:
        """Switch the carrier of a NIC, by `Nic.id`, on or off (idempotent).

        Raises:
            QmpRefused: The machine has no such NIC.
        """
