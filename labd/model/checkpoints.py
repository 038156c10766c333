"""A frozen lab: what a checkpoint is made of, and what is handed about while one is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from labd.model.disks import DiskRef
from labd.model.machine import CpuSetting
from labd.model.specs import LabSpec

MAX_COUNT = 500  # labs that are forked, in a class or kept ready of one checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a saved machine depends on of the host that runs it.

    Attributes:
        qemu: Version of QEMU, such as `7.2.22`.
        machines: Machine types that it knows, aliases too.
        cpu_model: Model name of the host's CPU, for people.
        cpu_flags: Features of the host's CPU (`flags` of /proc/cpuinfo).
    """

    qemu: str
    machines: frozenset[str] = frozenset()
    cpu_model: str = ""
    cpu_flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDisk:
    """A disk of a saved node.

    Attributes:
        id: `Disk.id` of the machine.
        name: File name of the overlay, by which a later start knows it again.
        layers: Digests of its frozen layers above the image, the newest first.
    """

    id: str
    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedNode:
    """One machine of a checkpoint.

    Attributes:
        name: Of the node.
        kvm: Its CPUs ran by KVM; else by software emulation.
        cpu: Its CPU with KVM. Those of older checkpoints had `HOST`.
        memory: Bytes that the guest has.
        machine_type: QEMU's own versioned name, such as `pc-q35-7.2`.
        fingerprint: Digest of all arguments that the guest can see.
        image: Digest of the node's image.
        ram: Digest of its memory's data.
        ram_bytes: Bytes of memory that are not zero.
        state: Digest of the devices' state.
        disks: Those that it can write.
        files: Other files of the machine's folder -> digest (UEFI variables).
        ready: It was ready, not only running.
        agent: Its guest agent had opened its port.
        balloon: It had a balloon; those of older checkpoints had none, and their copies get none.
    """

    name: str
    kvm: bool
    memory: int
    machine_type: str
    fingerprint: str
    image: str
    ram: str
    ram_bytes: int
    state: str
    disks: tuple[SavedDisk, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    ready: bool = True
    agent: bool = False
    balloon: bool = False
    cpu: CpuSetting = CpuSetting.HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint. Immutable once it is here: there is no row before everything is on disk.

    Attributes:
        name: Unique.
        key: Short id, unique for ever in this root; names its folder.
        lab: Name of the lab that was saved.
        message: What the person said about it.
        created: RFC 3339 UTC.
        spec: Of the lab, as it was.
        nodes: In the order of the spec.
        qemu: Version that wrote the state.
        cpu_model: Of the host, for people.
        cpu_flags: Of the host's CPU, sorted; what a fork needs where KVM is used.
        spread: Seconds between the first and the last node's stop.
        pause: Seconds that the longest of the nodes stood still; 0 when they did not go on.
        origin: Key of the checkpoint from which the lab was started, or empty.
        size: Bytes on disk of memory and state; layers are shared and not counted.
        owner: The instructor whose it is, as the lab was; empty: the administrators'.
    """

    name: str
    key: str
    lab: str
    spec: LabSpec
    nodes: tuple[SavedNode, ...]
    qemu: str
    message: str = ""
    created: str = ""
    cpu_model: str = ""
    cpu_flags: tuple[str, ...] = ()
    spread: float = 0.0
    pause: float = 0.0
    origin: str = ""
    size: int = 0
    owner: str = ""


class SaveMode(StrEnum):
    """What becomes of the lab when it is saved."""

    LIVE = "live"  # it goes on
    STOP = "stop"  # it is taken down


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A disk that gets a new top when it is frozen.

    Attributes:
        disk: `Disk.id`.
        top: The new overlay, empty, made on the present top.
    """

    disk: str
    top: DiskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOrder:
    """One machine that is to be saved.

    Attributes:
        key: The machine's.
        stream: Where QEMU writes; made by the hypervisor.
        grow: Disks to freeze.
        copies: Small files of the machine to copy while it stands still: (from, to).
    """

    key: str
    stream: Path
    grow: tuple[Growth, ...] = ()
    copies: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a save has come to.

    Attributes:
        machine_types: Machine key -> QEMU's versioned machine type.
        spread: Seconds between the first stop and the last.
        agents: Keys of the machines whose guest agent had opened its port.
        pauses: Machine key -> seconds that it stood still; empty when they were not let go on.
    """

    machine_types: dict[str, str]
    spread: float
    agents: frozenset[str] = frozenset()
    pauses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """The frozen state from which a machine starts. Descriptors of the caller's.

    Attributes:
        ram: Sealed memory, which QEMU maps privately.
        state: The devices' state, opened for this machine alone: QEMU reads from where it stands.
    """

    ram: int
    state: int
