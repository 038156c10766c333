"""Seams of the core to its host: plugins' processes, control groups, memory, keys, traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from labd.model.access import KeyPair
from labd.model.cgroups import Member
from labd.model.differences import Trace
from labd.model.memory import MemoryReading
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.process import ProcessId
from labd.model.states import PluginState


class PluginRunner(Protocol):
    """Plugin folders and supervised plugin processes."""

    def listen(self, listener: Callable[[PluginChange], None]) -> None:
        """Have `listener` called in the loop when a plugin's process starts or crashes."""

    def installed(self) -> Sequence[InstalledPlugin]:
        """Read the plugin folders afresh."""

    def check_settings(self, name: str, settings: Mapping[str, object]) -> Mapping[str, object]:
        """Return the settings with defaults.

        Raises:
            ConfigError: They do not fit the plugin's schema; tells the key and what to write.
            NotFound: There is no such plugin.
        """

    async def start(
        self, name: str, settings: Mapping[str, object], uid: int, since: int | None = None
    ) -> None:
        """Keep the plugin running from now on, under a user id of its own (idempotent).

        `since` is the seq after which it hears events when it runs for the first time; None: as it
        was told before.
        """

    async def stop(self, name: str) -> None:
        """Stop it (SIGTERM, then SIGKILL) and take its token and broker user away (idempotent)."""

    def state(self, name: str) -> tuple[PluginState, int]:
        """Return the state of its process and the restarts since `start`."""

    def log(self, name: str) -> bytes:
        """Return the kept output, at most 1 MiB."""

    async def close(self) -> None:
        """Stop all plugins."""


class Cgroups(Protocol):
    """Groups of labs and machines. Where the host has none that can bound, nothing is done."""

    def works(self) -> bool:
        """True if this host has groups that bound machines."""

    async def hold(self, members: Sequence[Member]) -> Sequence[str]:
        """Have each machine in its group, with its bounds, and no other group (idempotent).

        A machine that has ended is left out. Returns what could not be done, a line each.
        """

    async def groups(self) -> Sequence[str]:
        """Return the groups of machines of this root, each as `LAB KEY/MACHINE KEY`."""

    async def outside(self, members: Sequence[Member]) -> Sequence[str]:
        """Return the keys of the machines that live and are not in their groups."""


class HostMemory(Protocol):
    """What is left, and who goes first when nothing is."""

    async def read(self) -> MemoryReading:
        """Return how it stands."""

    async def prefer(self, scores: Mapping[ProcessId, int]) -> None:
        """Say whom the kernel shall kill first, if it must kill: the highest of -1000 to 1000.

        It is told of processes, and ends with them (`oom_score_adj`, proc(5)). Those that have
        ended are left out.
        """


class Traces(Protocol):
    """What this root's labds have made on the host, of some sorts.

    Whoever brings a new sort of thing to the host adds one of these to `Adapters.traces`.
    """

    async def find(self) -> Sequence[Trace]:
        """Return everything of these sorts, whether somebody needs it or not.

        Raises:
            WorldError: The host cannot be looked at.
        """

    async def remove(self, trace: Trace) -> None:
        """Remove one that `find` returned with a remedy (idempotent).

        Raises:
            WorldError: It stays.
        """


class LabKeys(Protocol):
    """SSH key pairs on the disk, by lab key."""

    async def ensure(self, lab_key: str) -> KeyPair:
        """Return the key pair of a lab; it is made at the first time.

        Raises:
            CommandFailed: It cannot be made; nothing is left.
        """

    async def read(self, lab_key: str) -> KeyPair | None:
        """Return the key pair of a lab, None when it has none."""

    async def remove(self, lab_key: str) -> None:
        """Delete it (idempotent)."""

    async def all(self) -> Sequence[str]:
        """Return the lab keys that have a key pair."""
