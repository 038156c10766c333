"""Further seams of a running machine: its screen and its removable devices.

Calls by key raise as those of `ports.Hypervisor` do: `NodeGone`, `NodeUnresponsive`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from labd.model.keys import Chord
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.serving import GuestInterface


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
