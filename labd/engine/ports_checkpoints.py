"""The seams of checkpoints: frozen machines, and the files that they are kept in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from labd.model.checkpoints import (
    CheckpointRecord,
    HostFacts,
    Incoming,
    Saved,
    SavedNode,
    SaveOrder,
)
from labd.model.machine import MachineSpec
from labd.model.process import ProcessId


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

    async def put_back(self, key: str, *, run: bool) -> None:
        """End a save that an earlier daemon began, or take back one that did not `go_on`."""

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], incoming: Incoming
    ) -> ProcessId:
        """Start a machine from a frozen state, its CPUs stopped; as `Hypervisor.launch`."""

    async def loaded(self, key: str) -> None:
        """Return when the machine has loaded its state; its CPUs are still stopped.

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


class Checkpoints(Protocol):
    """The files of checkpoints, and frozen memory that is ready to be mapped."""

    async def stage(self, key: str) -> Path:
        """Return an empty folder to make a checkpoint in."""

    async def absorb(self, key: str, node: str, stream: Path) -> tuple[str, int, str]:
        """Take a node's stream in: digest of the memory, its bytes of data, digest of the state.

        Raises:
            StorageFailed: No room, or it is no such stream.
        """

    async def digest(self, key: str, name: str) -> str:
        """Return the digest of a file in the staged folder."""

    async def add_layer(self, path: Path) -> str:
        """Copy a disk file that nobody writes any more into the store; return its digest."""

    def layer(self, digest: str) -> Path:
        """Return the path of a layer. Pure."""

    def digest_of(self, path: Path) -> str:
        """Return the digest of a path that `layer` gave; empty for any other. Pure."""

    async def publish(self, record: CheckpointRecord) -> int:
        """Make what was staged durable and visible; return its bytes on disk."""

    async def verify(self, record: CheckpointRecord) -> None:
        """Return when all disk layers of a checkpoint are there and whole.

        Raises:
            StorageFailed: One is missing, or is not what it was; tells which.
        """

    async def incoming(self, record: CheckpointRecord, node: SavedNode) -> Incoming:
        """Return memory and state of a node; both descriptors are the caller's.

        Raises:
            StorageFailed: A file is missing, or is not what it was.
        """

    async def copy_file(self, key: str, name: str, target: Path) -> None:
        """Copy a small file out of a checkpoint."""

    def pack(self, record: CheckpointRecord) -> AsyncIterator[bytes]:
        """Yield a checkpoint as one stream, for another host.

        Raises:
            StorageFailed: A file cannot be read.
        """

    async def receive(self, key: str, name: str, chunks: AsyncIterator[bytes]) -> CheckpointRecord:
        """Take such a stream into the staged folder; `publish` makes it a checkpoint.

        Raises:
            InputError: It is none, is damaged, or has names in it that are no names.
            StorageFailed: No room.
        """

    async def discard(self, key: str) -> None:
        """Remove a checkpoint, or what was made of one (idempotent). Layers stay."""

    def collect(self, layers: Collection[str]) -> None:
        """Remove every layer but these; at once, for nothing may be in the making meanwhile."""

    async def sweep(self, keys: Collection[str], layers: Collection[str]) -> Sequence[str]:
        """Remove every checkpoint and layer but these, whole or half made; tell what went."""

    def trim(self, in_use: Collection[str]) -> None:
        """Let go of loaded memory that was idle, but for the checkpoints `in_use`."""

    def loaded(self) -> Mapping[str, int]:
        """Return checkpoint key -> bytes of memory that are loaded for it."""

    def close(self) -> None:
        """Let go of all loaded memory."""
