"""The command line of QEMU, as a pure function of the machine and the numbers of its descriptors.

Everything that comes from a person goes through JSON or is an argument of its own, so that no name
can inject an option; QEMU's legacy comma syntax gets generated ids and numbers only. The order of
the devices, their ids and their PCI addresses follow from the spec alone: a copy of a machine that
is started from its saved state must have the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from labd.drivers.node.qemu import devices
from labd.drivers.node.qemu.devices import Device
from labd.model.disks import BlockAttachment
from labd.model.errors import InputError
from labd.model.machine import MachineSpec
from labd.model.specs import Display, Firmware, Machine

PROGRAM = "qemu-system-x86_64"
MEMORY_ID = "ram"
UNHEARD_SET = 1000  # of descriptors; those of files count from 1
CONFIG_ITEM = "opt/io.labd/config"
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9/._-]{0,200}\Z")
_MARK = re.compile(r"\Aguest=.*@([a-z0-9-]{1,32})\.([a-z0-9-]{1,32}),debug-threads=on\Z")

# `spawn=deny` and friends hold because the user id is dropped before exec (never by -runas).
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# QEMU never ends by itself: after the daemon was away, `query-status` still tells what happened.
_ACTION = "reboot=reset,shutdown=pause,panic=pause,watchdog=reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """Numbers of the open descriptors that QEMU inherits.

    Attributes:
        qmp: Listening socket of labd's monitor.
        people: Listening socket of a second monitor, for a person's tools.
        serial: Listening socket of the serial line.
        agent: Listening socket of the guest agent's port.
        taps: `Nic.id` -> tap.
        layers: Block node (`devices.layers`) -> how QEMU gets at it; its descriptor is inherited.
        kernel: Opened kernel, or None.
        initrd: Opened initramfs, or None.
        config: Opened file with the guest's configuration, or None.
        ram: Sealed memory that is mapped privately, for a machine that starts from a frozen
            state; None: memory of its own, empty.
        incoming: The frozen state of the devices, or None.
        backlog: Memory that keeps what the serial line says (`console_backlog`), or None.
    """

    qmp: int
    people: int
    serial: int
    agent: int
    taps: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, BlockAttachment] = field(default_factory=dict)
    kernel: int | None = None
    initrd: int | None = None
    config: int | None = None
    ram: int | None = None
    incoming: int | None = None
    backlog: int | None = None


def build(
    machine: MachineSpec,
    fds: Descriptors,
    root_id: str,
    tsc_khz: int = 0,
    *,
    merge: bool = True,
    program: str = PROGRAM,
) -> list[str]:
    """Return the whole argv.

    Args:
        machine: What to start.
        fds: Everything that `machine` needs open.
        root_id: By which `identify` recognises the processes of one root.
        tsc_khz: Frequency of the host's time-stamp counter, 0 for unknown; see `tsc`.
        merge: The kernel may merge equal pages of its memory with those of others (KSM).
        program: The QEMU to start, by name or path; `identify` knows it by its last part.

    Raises:
        InputError: The machine type cannot have what the spec asks for.
    """
    return [
        program,
        *_identity(machine, root_id),
        *_board(machine),
        *_monitors(fds),
        *_boot(machine, fds, tsc_khz),
        *_options("-object", [_memory(machine, fds, merge=merge)]),
        *_files(machine, fds),
        *_options("-blockdev", devices.blockdevs(machine, fds.layers)),
        *_options("-netdev", devices.netdevs(machine, fds.taps)),
        *_options("-device", devices.devices(machine)),
        *_screen(machine),
        *(["-incoming", f"fd:{fds.incoming}"] if fds.incoming is not None else []),
    ]


def fingerprint(machine: MachineSpec) -> str:
    """Return a digest of everything that the guest can see of its machine.

    A frozen state fits a machine with the same fingerprint only, and QEMU itself does not look: a
    device too many is accepted in silence.
    """
    seen = [
        _board(replace(machine, machine_type="")),
        devices.devices(machine),
        [(disk.id, str(disk.format), disk.read_only, disk.cdrom) for disk in machine.disks],
        str(machine.display),
        machine.cmdline if machine.kernel is not None else "",
    ]
    text = json.dumps(seen, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def identify(argv: Sequence[str]) -> tuple[str, str, str] | None:
    """Return (root id, machine key, uuid) of a command line of `build`; None for any other."""
    if not any(word.rsplit("/", 1)[-1] == PROGRAM for word in argv[:1]):
        return None
    values = dict(pairwise(argv))
    found = _MARK.match(values.get("-name", ""))
    if found is None or "-uuid" not in values:
        return None
    return found[1], found[2], values["-uuid"]


def _identity(machine: MachineSpec, root_id: str) -> list[str]:
    title = f"{machine.lab}/{machine.node}"
    if not _NAME.match(title):
        raise InputError(f"{title[:80]!r} cannot name a machine: use a-z, 0-9 and '-'")
    name = f"guest={title}@{root_id}.{machine.key},debug-threads=on"
    if not _MARK.match(name):
        raise InputError(f"{root_id}.{machine.key} cannot mark a machine: use a-z, 0-9 and '-'")
    return [
        *("-name", name),
        *("-uuid", machine.uuid),
        *("-nodefaults", "-no-user-config", "-S"),
        *("-sandbox", SANDBOX),
        *("-action", _ACTION),
        *("-msg", "timestamp=on"),
    ]


def _board(machine: MachineSpec) -> list[str]:
    # Same defaults on every host: what differs between hosts or builds is said, not left to QEMU.
    words = [
        machine.machine_type or str(machine.machine),
        f"accel={'kvm' if machine.kvm else 'tcg'}",
    ]
    words += [f"memory-backend={MEMORY_ID}", "usb=off", "dump-guest-core=off"]
    if _is_microvm(machine):
        # The 8254 and 8259 and the clock of a PC: kernels calibrate their timers by them.
        words += ["acpi=on", "pit=on", "pic=on", "rtc=on", "ioapic2=on", "isa-serial=on"]
        if machine.firmware is Firmware.UEFI:
            raise InputError(
                "machine microvm cannot start by firmware uefi: use q35, or firmware bios"
            )
    else:
        words += ["vmport=off"]
    if machine.firmware is Firmware.UEFI:
        words += [f"pflash0={devices.CODE_NODE}", f"pflash1={devices.VARS_NODE}"]
    return [
        *("-machine", ",".join(words)),
        *("-cpu", str(machine.cpu) if machine.kvm else "max"),
        *("-smp", f"cpus={machine.vcpus},sockets=1,cores={machine.vcpus},threads=1"),
        *("-m", f"size={devices.memory_size(machine.memory) >> 10}k"),
        *("-rtc", "base=utc"),
        *(_microvm_firmware(machine) if _is_microvm(machine) else ()),
    ]


def _microvm_firmware(machine: MachineSpec) -> list[str]:
    # virtio 1 instead of the draft before it, from which SeaBIOS cannot start.
    argv = ["-global", "virtio-mmio.force-legacy=off"]
    # qboot, the default, is quicker but starts kernels only; SeaBIOS starts from disks.
    return argv if machine.kernel is not None else [*argv, "-bios", str(devices.MICROVM_BIOS)]


def _is_microvm(machine: MachineSpec) -> bool:
    return machine.machine is Machine.MICROVM


def _memory(machine: MachineSpec, fds: Descriptors, *, merge: bool) -> Device:
    # A backend of its own under a stable id, under which a checkpoint finds its pages.
    size = devices.memory_size(machine.memory)
    if fds.ram is not None:
        path = f"/proc/self/fd/{fds.ram}"
        backend: Device = {"qom-type": "memory-backend-file", "id": MEMORY_ID, "size": size}
        backend |= {"mem-path": path, "share": False}
    else:
        backend = {"qom-type": "memory-backend-ram", "id": MEMORY_ID, "size": size}
    # Not said when it may: QEMU's default. No guest sees it, so it is in no fingerprint.
    return backend if merge else {**backend, "merge": False}


def _monitors(fds: Descriptors) -> list[str]:
    # -chardev has no JSON syntax in QEMU 7.2: only fixed ids and numbers stand here.
    argv: list[str] = []
    for name, fd in (
        ("qmp", fds.qmp),
        ("people", fds.people),
        ("serial", fds.serial),
        ("agent", fds.agent),
    ):
        kept = fds.backlog is not None and name == "serial"
        log = f",logfile=/dev/fdset/{UNHEARD_SET}" if kept else ""
        argv += ["-chardev", f"socket,id={name},fd={fd},server=on,wait=off{log}"]
    for name in ("qmp", "people"):
        argv += ["-mon", f"chardev={name},mode=control"]
    # As -serial and not -device: microvm makes its serial port itself.
    return [*argv, "-serial", "chardev:serial"]


def _boot(machine: MachineSpec, fds: Descriptors, tsc_khz: int) -> list[str]:
    argv = ["-boot", "strict=on,menu=off"]
    for option, fd in (("-kernel", fds.kernel), ("-initrd", fds.initrd)):
        if fd is not None:
            argv += [option, f"/proc/self/fd/{fd}"]
    if not machine.cmdline.isprintable():
        raise InputError(f"{machine.node}: the kernel command line has a control character in it")
    cmdline = machine.cmdline
    if _is_microvm(machine) and not machine.kvm and tsc_khz:
        cmdline = f"tsc_early_khz={tsc_khz} {cmdline}".rstrip()
    if fds.kernel is not None and cmdline:
        argv += ["-append", cmdline]
    if fds.config is not None:
        argv += ["-fw_cfg", f"name={CONFIG_ITEM},file=/proc/self/fd/{fds.config}"]
    return argv


def _files(machine: MachineSpec, fds: Descriptors) -> list[str]:
    argv: list[str] = []
    for layer in devices.layers(machine):
        fd = fds.layers[layer.node].fd
        if fd is not None:
            argv += ["-add-fd", f"fd={fd},set={layer.fdset}"]
    if fds.backlog is not None:
        argv += ["-add-fd", f"fd={fds.backlog},set={UNHEARD_SET}"]
    return argv


def _screen(machine: MachineSpec) -> list[str]:
    # A VNC display without a socket: viewers are handed over by QMP (`add_client`).
    return ["-display", "none"] if machine.display is Display.NONE else ["-vnc", "none"]


def _options(option: str, values: Sequence[Device]) -> list[str]:
    argv: list[str] = []
    for value in values:
        argv += [option, json.dumps(value, separators=(",", ":"))]
    return argv
