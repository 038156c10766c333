"""The seams of the engine: what it needs from the world, as protocols.

Each has a real adapter and a fake, and one contract suite (`tests/contract`) that runs on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.events import Event, Happening
from labd.model.lab_leases import LabLease
from labd.model.machine import (
    AccelChoice,
    CpuSetting,
    ExecResult,
    FoundMachine,
    GuestEvent,
    MachineSpec,
    RunState,
)
from labd.model.network import LabNetworkPlan
from labd.model.people import TokenRecord
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.pools import PoolMember, PoolRecord
from labd.model.process import ProcessId
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)
from labd.model.specs import Accel, Image, ImageFormat, Profile
from labd.model.states import PluginState
from labd.model.wires import WireRecord


class Console(Protocol):
    """One viewer of a serial line."""

    async def read(self) -> bytes:
        """Return the next output; empty when the node has gone."""

    async def write(self, data: bytes) -> None:
        """Type into the line."""


class Hypervisor(Protocol):
    """QEMU processes. Every call but `launch` ends within its own deadline (seconds, default 5).

    Calls by key raise `NodeGone` for a machine that has ended or was never known, and
    `NodeUnresponsive` when QEMU misses the deadline (which also sends UNRESPONSIVE once).
    """

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        """Have `listener` called in the loop, in order per machine, for each guest event.

        Set once, before anything is launched. EXITED is the last event of a machine.
        """

    async def accel(self, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        """Choose the accelerator and the CPU; what a live probe finds to work is remembered.

        Args:
            wanted: `auto` becomes KVM where it works, else TCG.
            cpu: With `kvm`, the only CPU that will do; None for the best that works.

        Raises:
            LaunchFailed: `kvm` was asked for and cannot be opened.
            AcceleratorFailed: `kvm` was asked for, and QEMU dies with it.
        """

    async def launch(self, machine: MachineSpec, taps: Mapping[str, int]) -> ProcessId:
        """Start QEMU with its CPUs stopped (-S), connect, and check it over QMP.

        `taps` maps `Nic.id` to an open tap descriptor; they are closed in this process on return,
        whatever happens. The serial line is recorded from before the first guest instruction.

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

    async def kill(self, key: str) -> None:
        """End the process and wait for its end; no error when there is none (idempotent).

        QMP `quit` first when it is responsive, then SIGKILL through a pidfd.
        """

    async def kill_process(self, process: ProcessId) -> None:
        """End a process found by `scan` that nobody knows, and wait for its end (SIGKILL)."""

    async def query(self, key: str) -> RunState:
        """Ask QEMU what it is doing (`query-status`)."""

    def rename(self, machine: MachineSpec) -> None:
        """Call a running machine what its new spec calls it; QEMU's own `-name` stays."""

    async def forget(self, machine: MachineSpec) -> None:
        """Remove sockets, logs and the run folder of a machine that has ended (idempotent)."""

    async def wait_console(self, key: str, pattern: str) -> str:
        """Return the first serial line since the launch or reset in which `pattern` is found.

        Waits without limit of its own; ends with NodeGone when the machine ends.
        """

    async def agent_ping(self, key: str) -> bool:
        """Tell whether the guest agent answers."""

    async def agent_exec(
        self, key: str, argv: Sequence[str], timeout: float, stdin: bytes = b""
    ) -> ExecResult:
        """Run a command by the guest agent (`guest-exec`).

        Raises:
            GuestAgentAbsent: No agent.
            GuestFailed: It has no such program, or it took over `timeout` seconds.
        """

    def console(self, key: str) -> AbstractAsyncContextManager[Console]:
        """Attach one more viewer; it first reads the last 4 KiB of what was said."""

    def console_log(self, machine: MachineSpec) -> Path:
        """Return the path of the bounded serial log; `.1` beside it is the older half.

        Each half has its index of times (`labd.host.timelog`).
        """

    def message_log(self, machine: MachineSpec) -> Path:
        """Return the path of what QEMU itself said since the launch."""

    async def close(self) -> None:
        """Let go of every machine without touching it."""


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
        """Tell whether a TCP connection from inside the namespace is accepted."""


class Images(Protocol):
    """Files of the image store. Names and rows are the inventory's; this keeps files by digest."""

    async def receive(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str = "",
        source: str = "",
        kernel_size: int | None = None,
        cmdline: str = "",
    ) -> Image:
        """Take an upload into the store.

        For `format=kernel`, the stream is the kernel (`kernel_size` bytes) and then the initramfs.

        Raises:
            ImageRefused: Unsafe, damaged, truncated, wrong digest. Nothing stays behind.
            StorageFailed: No space. Nothing stays behind.
        """

    async def download(
        self,
        name: str,
        url: str,
        *,
        format: ImageFormat | None,
        sha256: str = "",
        progress: Callable[[int, int | None], None],
    ) -> Image:
        """Take a URL (http, https) into the store, resuming what an earlier try left.

        `progress` is called with bytes so far and bytes in all (None: not known).

        Raises:
            ImageRefused, StorageFailed: As in `receive`.
            DownloadFailed: The partial file is kept for the next try.
        """

    async def build(self, recipe: str, name: str, progress: Callable[[str], None]) -> Image:
        """Build a named recipe (`tiny`); the same inputs come from the cache at once.

        Raises:
            InputError: There is no such recipe.
            CommandFailed: With the last words of the tool that failed.
        """

    async def discard(self, image: Image) -> None:
        """Delete the files of a digest (idempotent)."""

    def files(self, image: Image) -> Mapping[str, Path]:
        """Return part name (`disk`, `kernel`, `initrd`) -> path."""

    async def make_overlay(self, image: Image, path: Path, size: int | None) -> None:
        """Make a qcow2 overlay on the image's disk at `path` (0600), `size` bytes virtual.

        Raises:
            InputError: `size` is smaller than the image.
            StorageFailed: No space; nothing stays behind.
        """

    async def make_child(self, parent: Path, path: Path) -> None:
        """Make a qcow2 overlay of the same size on another one at `path` (0600)."""

    async def make_blank(self, path: Path, size: int) -> None:
        """Make an empty qcow2 disk of `size` bytes at `path` (0600)."""

    async def make_seed(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Make a CD with these files for cloud-init at `path` (0600), instead of what is there.

        The same files make the same bytes.

        Raises:
            StorageFailed: No space; what was there before stays.
        """

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove what interrupted imports left and every digest not in `keep`; tell what went."""


class Transaction(Protocol):
    """One atomic change: rows and the events that tell of them."""

    async def put_lab(self, lab: LabRecord) -> None:
        """Insert or replace."""

    async def delete_lab(self, name: str) -> None:
        """Delete with all its nodes."""

    async def put_node(self, node: NodeRecord) -> None:
        """Insert or replace."""

    async def delete_node(self, lab: str, name: str) -> None:
        """Delete."""

    async def put_operation(self, operation: OperationRecord) -> None:
        """Insert or replace."""

    async def put_image(self, image: Image) -> None:
        """Insert; a name that exists is replaced."""

    async def delete_image(self, name: str) -> None:
        """Delete."""

    async def put_profile(self, profile: Profile) -> None:
        """Insert or replace."""

    async def delete_profile(self, name: str) -> None:
        """Delete."""

    async def put_checkpoint(self, record: CheckpointRecord) -> None:
        """Insert."""

    async def delete_checkpoint(self, name: str) -> None:
        """Delete."""

    async def put_lab_lease(self, lease: LabLease) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_lab_lease(self, lab: str) -> None:
        """Delete."""

    async def put_class(self, record: ClassRecord) -> None:
        """Insert or replace."""

    async def delete_class(self, name: str) -> None:
        """Delete."""

    async def put_pool(self, record: PoolRecord) -> None:
        """Insert or replace."""

    async def delete_pool(self, checkpoint: str) -> None:
        """Delete; its members stay."""

    async def put_pool_member(self, record: PoolMember) -> None:
        """Insert or replace."""

    async def delete_pool_member(self, key: str) -> None:
        """Delete."""

    async def put_token(self, token: TokenRecord) -> None:
        """Insert or replace; it goes with the last of its labs, if it is for labs."""

    async def delete_token(self, name: str) -> None:
        """Delete."""

    async def put_plugin(self, plugin: PluginRecord) -> None:
        """Insert or replace."""

    async def put_publication(self, publication: PublicationRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_publication(self, publication: PublicationRecord) -> None:
        """Delete."""

    async def put_lease(self, lease: LeaseRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_lease(self, lease: LeaseRecord) -> None:
        """Delete."""

    async def put_wire(self, wire: WireRecord) -> None:
        """Insert or replace; it goes with its lab."""

    async def delete_wire(self, wire: WireRecord) -> None:
        """Delete."""

    async def emit(self, happening: Happening) -> Event:
        """Number the happening and put it in the outbox."""


class Inventory(Protocol):
    """What labd wants and last knew, and the outbox.

    Reads see committed rows, and in the task that holds a transaction also what it wrote so far.

    Every call raises `StorageFailed` when the database does.
    """

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back on any exception (also cancellation).

        One at a time; others wait. Followers are woken after the commit.
        """

    async def host_id(self) -> str:
        """Return the id of this root, 8 hex digits, made once."""

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs by name."""

    async def lab(self, name: str) -> LabRecord | None:
        """Return one lab."""

    async def nodes(self, lab: str | None = None) -> Sequence[NodeRecord]:
        """Return the nodes of one lab, or of all, in the order of lab and name."""

    async def node(self, lab: str, name: str) -> NodeRecord | None:
        """Return one node."""

    async def node_by_key(self, key: str) -> NodeRecord | None:
        """Return the node whose machine has this key."""

    async def operations(
        self, *, running: bool = False, limit: int = 100
    ) -> Sequence[OperationRecord]:
        """Return operations, the newest first."""

    async def operation(self, id: str) -> OperationRecord | None:
        """Return one operation."""

    async def images(self) -> Sequence[Image]:
        """Return all images by name."""

    async def image(self, name: str) -> Image | None:
        """Return one image by name."""

    async def profiles(self) -> Sequence[Profile]:
        """Return all profiles by name."""

    async def profile(self, name: str) -> Profile | None:
        """Return one profile."""

    async def checkpoints(self) -> Sequence[CheckpointRecord]:
        """Return all checkpoints by name."""

    async def lab_leases(self) -> Sequence[LabLease]:
        """Return the leases of all labs by name."""

    async def lab_lease(self, lab: str) -> LabLease | None:
        """Return the lease of a lab."""

    async def classes(self) -> Sequence[ClassRecord]:
        """Return all classes by name."""

    async def pools(self) -> Sequence[PoolRecord]:
        """Return all pools by key of their checkpoint."""

    async def pool_members(self) -> Sequence[PoolMember]:
        """Return the members of all pools, the oldest first."""

    async def token(self, hash: str) -> TokenRecord | None:
        """Return the token with this sha256."""

    async def tokens(self) -> Sequence[TokenRecord]:
        """Return the tokens of all people by name."""

    async def plugins(self) -> Sequence[PluginRecord]:
        """Return all plugin rows by name."""

    async def publications(self, lab: str) -> Sequence[PublicationRecord]:
        """Return the published ports of a lab, in the order of node and port."""

    async def leases(self, lab: str) -> Sequence[LeaseRecord]:
        """Return the addresses given out in a lab, as they were told last."""

    async def wires(self, lab: str) -> Sequence[WireRecord]:
        """Return what was said of the wires of a lab."""

    async def events(self, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with `seq > after` in order."""

    async def first_seq(self) -> int:
        """Return the lowest seq that is still kept (older ones were pruned), 1 when none."""

    async def last_seq(self) -> int:
        """Return the highest seq, 0 when none."""

    async def published_seq(self) -> int:
        """Return the seq up to which the broker has acknowledged."""

    async def mark_published(self, seq: int) -> None:
        """Remember it (monotonic)."""

    async def wait_events(self, after: int) -> int:
        """Return the last seq as soon as it is above `after`."""

    async def integrity(self) -> Sequence[str]:
        """Return what the database says is wrong with itself; empty when nothing is."""

    async def close(self) -> None:
        """Close the database."""


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
