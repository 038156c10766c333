"""What a node driver is given to start, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from labd.model.disks import DiskRef
from labd.model.images import ImageFormat
from labd.model.kinds import DEFAULT_KIND
from labd.model.process import ProcessId
from labd.model.specs import BootDevice, DiskBus, Display, Firmware, Machine, NicModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One drive of a machine, with its whole chain of layers.

    Attributes:
        id: Short generated id, `[a-z][a-z0-9]*`; names the block node and the device.
        ref: The top: an overlay that the machine writes, or a read-only ISO or raw disk.
        format: Of the top.
        backing: Read-only layers below it, nearest first, each (name, format).
        cdrom: Attach as a CD-ROM.
        serial: What the guest sees, at most 20 characters.
        slot: Number of its place on the bus; None: its position among those of its bus.
        empty: A CD-ROM drive without a medium; `ref` is `NO_DISK` then.
    """

    id: str
    ref: DiskRef
    format: ImageFormat
    backing: tuple[tuple[DiskRef, ImageFormat], ...] = ()
    bus: DiskBus = DiskBus.VIRTIO
    read_only: bool = False
    cdrom: bool = False
    serial: str = ""
    slot: int | None = None
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One network card; its tap is passed as a descriptor, by `id`.

    Attributes:
        slot: Number of its place on the bus; None: its position among the NICs.
    """

    id: str
    mac: str
    model: NicModel = NicModel.VIRTIO
    slot: int | None = None


class CpuSetting(StrEnum):
    """What `-cpu` of QEMU is for a machine that runs by KVM, the best first.

    Rows and checkpoints hold these words, so a setting is only ever added.
    """

    HOST = "host,migratable=on"
    # KVM on AMD may offer ARCH_CAPABILITIES and then refuse the value that QEMU 7.2 sets: QEMU
    # aborts with "failed to set MSR 0x10a".
    NO_ARCH_CAPABILITIES = "host,migratable=on,arch-capabilities=off"
    KVM64 = "kvm64"  # few features, and none of a host's own


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One machine, fully decided.

    Attributes:
        kind: Which driver runs it.
        lab: For messages and `-name` only.
        node: For messages and `-name` only.
        key: Short id, unique on the host's root; names folder and sockets.
        uuid: RFC 4122 text; proves identity over QMP (`query-uuid`) and in the argv.
        uid: The process's own user and group id.
        folder: `<state>/nodes/<key>`, owned by `uid`, mode 0700: small files of
            its own, such as UEFI variables; in the class `local` its disks, too.
        run: `<run>/n/<key>`, root's: sockets `qmp.sock`, `hmp.sock` (second QMP), `serial.sock`,
            `agent.sock`, `vnc.sock`; logs `qemu.log`, `console.log`.
        memory: Bytes.
        kvm: True for accel=kvm, False for accel=tcg.
        cpu: Its CPU with KVM, without meaning for TCG. Machines of older rows had `HOST`.
        machine_type: QEMU's own versioned name, such as `pc-q35-7.2`, instead of the newest of its
            kind: what was frozen with one must go on with the same. Empty for the newest.
        config: Bytes that the guest reads as fw_cfg item `opt/io.labd/config`; empty for none.
        balloon: It can give free memory back to the host.
    """

    lab: str
    node: str
    key: str
    uuid: str
    uid: int
    folder: Path
    run: Path
    vcpus: int
    memory: int
    machine: Machine
    firmware: Firmware = Firmware.BIOS
    display: Display = Display.NONE
    kvm: bool = False
    cpu: CpuSetting = CpuSetting.HOST
    disks: tuple[Disk, ...] = ()
    boot: tuple[BootDevice, ...] = ()
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    nics: tuple[Nic, ...] = ()
    config: bytes = b""
    machine_type: str = ""
    balloon: bool = False
    kind: str = DEFAULT_KIND


class RunState(StrEnum):
    """What QMP `query-status` says, folded to what labd acts on."""

    PRELAUNCH = "prelaunch"  # started with -S, never let go; also inmigrate
    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"  # the guest powered off; QEMU holds (-action shutdown=pause)
    PANICKED = "panicked"
    IO_ERROR = "io-error"


class GuestEventKind(StrEnum):
    """QEMU's own events, folded."""

    PAUSED = "paused"  # STOP
    RESUMED = "resumed"  # RESUME
    RESET = "reset"  # RESET; data: guest (bool), reason, count (of a storm of them)
    POWERED_OFF = "powered-off"  # SHUTDOWN; data: guest (bool), reason
    PANICKED = "panicked"  # GUEST_PANICKED, GUEST_CRASHLOADED
    WATCHDOG = "watchdog"
    IO_ERROR = "io-error"  # BLOCK_IO_ERROR; data: device, operation, reason, nospace
    AGENT_OPENED = "agent-opened"  # VSERPORT_CHANGE of the guest agent's port
    UNRESPONSIVE = "unresponsive"  # a QMP call missed its deadline
    RESPONSIVE = "responsive"
    STUCK = "stuck"  # it was killed and does not end; data: pid, process_state, seconds, reason
    CONSOLE_LOST = "console-lost"  # nobody hears its serial line; data: reason
    CONSOLE_RESTORED = "console-restored"  # it is heard again; data: seconds
    EXITED = "exited"  # the process has ended; data: status, signal, stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvent:
    """One event of one node's QEMU.

    Attributes:
        key: The machine's key.
        time: Seconds since the epoch: QMP's own timestamp, or labd's clock where QMP has none.
    """

    key: str
    kind: GuestEventKind
    time: float
    data: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelChoice:
    """The accelerator of a machine.

    Attributes:
        kvm: True for KVM, False for TCG.
        warning: Why `auto` came to TCG on this host; empty when it came to KVM.
        cpu: The CPU of a machine with KVM.
        note: Why that is not `CpuSetting.HOST`; empty when it is.
    """

    kvm: bool
    warning: str = ""
    cpu: CpuSetting = CpuSetting.HOST
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """End of a command that the guest agent ran.

    Attributes:
        status: Exit status; minus the number of the signal that ended it.
        stdout: At most 1 MiB of it.
        stderr: At most 1 MiB of it.
        truncated: Whether there was more of either.
    """

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMachine:
    """A machine of this root that was found on the host; `kind` says by which driver."""

    key: str
    uuid: str
    process: ProcessId
    kind: str = DEFAULT_KIND
