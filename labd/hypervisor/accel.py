"""Which accelerator a machine gets, and how an unprivileged QEMU gets at `/dev/kvm`.

`/dev/kvm` opening is no proof: under some hypervisors it opens, runs real-mode code, and hangs on
a real kernel. So `auto` is KVM only where the CPU shows vmx or svm *and* a guest of five bytes
passes.

QEMU opens `/dev/kvm` itself, as the VM's user (version 7.2 has no option to inherit it). Where the
device is open to all, or to a group, that is enough: the VM gets that group. Where it is root's
alone, the device is left as it is; the VM gets a node of its own in a private mount namespace (as
libvirt does), which no other process can see.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.host.jail import LOOKED_AT, PROGRAMS, WRITTEN_TO, Jail
from labd.host.landlock import Files
from labd.host.spawn import run
from labd.host.threads import quick
from labd.hypervisor import argv
from labd.model.errors import CommandFailed, LaunchFailed
from labd.model.machine import AccelChoice
from labd.model.specs import Accel

DEVICE: Final = Path("/dev/kvm")
PROBE_TIMEOUT: Final = 3.0  # seconds
_CPUINFO = Path("/proc/cpuinfo")
_PROBE_VALUE = 0x2A
_PROBE_STATUS = _PROBE_VALUE << 1 | 1  # what isa-debug-exit makes of it

# mov al, 0x2a; out 0xf4, al; hlt - at the reset vector (the last 16 bytes) of a 64 KiB BIOS.
_PROBE_CODE = bytes([0xB0, _PROBE_VALUE, 0xE6, 0xF4, 0xF4])
PROBE_BIOS: Final = bytes(0xFFF0) + _PROBE_CODE.ljust(16, b"\xf4")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmAccess:
    """What an unprivileged QEMU needs to open `/dev/kvm`.

    Attributes:
        groups: Supplementary groups of the process.
        node: A node that the process sees as `/dev/kvm`, alone; None: it opens the host's.
        text: For people.
    """

    groups: tuple[int, ...] = ()
    node: Path | None = None
    text: str = ""


def plan_access(mode: int, gid: int, node: Path) -> KvmAccess:
    """Return how to get at a device of this mode and group. Pure.

    Args:
        mode: `st_mode` of the device.
        gid: Its group.
        node: Where a private node would be.
    """
    if mode & (stat.S_IROTH | stat.S_IWOTH) == stat.S_IROTH | stat.S_IWOTH:
        return KvmAccess(text=f"{DEVICE} is open to all")
    if gid != 0 and mode & (stat.S_IRGRP | stat.S_IWGRP) == stat.S_IRGRP | stat.S_IWGRP:
        return KvmAccess(groups=(gid,), text=f"machines with KVM get the group {gid} of {DEVICE}")
    return KvmAccess(
        node=node,
        text=f"{DEVICE} is root's alone: machines with KVM get a private node of it",
    )


class Accelerator:
    """The choice of the host, made once.

    Args:
        folder: Root's own folder, for the private node.
    """

    def __init__(self, folder: Path) -> None:
        self._node = folder / "kvm" / "kvm"
        self._lock = asyncio.Lock()
        self._auto: AccelChoice | None = None

    async def choose(self, wanted: Accel) -> AccelChoice:
        """Return the choice; the live probe of `auto` runs once.

        Raises:
            LaunchFailed: `kvm` is wanted and cannot be opened.
        """
        match wanted:
            case Accel.TCG:
                return AccelChoice(kvm=False)
            case Accel.KVM:
                problem = await quick(_open_problem)
                if problem:
                    raise LaunchFailed(f"{problem}; or set accel: tcg")
                return AccelChoice(kvm=True)
        async with self._lock:
            if self._auto is None:
                self._auto = await self._decide()
        return self._auto

    def access(self) -> KvmAccess:
        """Return how QEMU gets at the device, having made the private node where it needs one.

        Raises:
            LaunchFailed: There is no device.
        """
        try:
            device = DEVICE.stat()
        except OSError as error:
            raise LaunchFailed(f"{DEVICE}: {error.strerror}; load kvm_intel or kvm_amd") from error
        access = plan_access(device.st_mode, device.st_gid, self._node)
        if access.node is not None:
            self._make_node(device.st_rdev)
        return access

    async def probe(self) -> str:
        """Run the guest of five bytes under KVM; return what went wrong, empty when it passed."""
        try:
            access = self.access()
        except LaunchFailed as error:
            return error.message
        with ExitStack() as stack:
            bios = os.memfd_create("labd-probe")
            stack.callback(os.close, bios)
            os.write(bios, PROBE_BIOS)
            try:
                done = await run(
                    _probe_argv(bios),
                    timeout=PROBE_TIMEOUT,
                    check=False,
                    pass_fds=[bios],
                    jail=jail_for(65534, access),
                )
            except CommandFailed as error:
                return f"the probe guest failed under KVM: {error.message}"
        if done.status == _PROBE_STATUS:
            return ""
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"the probe guest failed under KVM: {said[-1] if said else done.status}"

    async def _decide(self) -> AccelChoice:
        problem = await quick(_open_problem) or await quick(_cpu_problem)
        if not problem:
            problem = await self.probe()
        if problem:
            return AccelChoice(
                kvm=False, warning=f"software emulation (TCG), 10 to 30 times slower: {problem}"
            )
        return AccelChoice(kvm=True)

    def _make_node(self, device: int) -> None:
        self._node.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if self._node.lstat().st_rdev == device:
                return
            self._node.unlink()
        try:
            os.mknod(self._node, 0o600 | stat.S_IFCHR, device)
            # Only root passes the folder; in the machine's own namespace it is the machine's.
            self._node.chmod(0o666)
        except OSError as error:
            raise LaunchFailed(
                f"cannot make a private node of {DEVICE}: {error.strerror}; "
                f"give {DEVICE} a group that may read and write it"
            ) from error


def jail_for(uid: int, access: KvmAccess | None, opened: tuple[int, ...] = ()) -> Jail:
    """Return the jail of a QEMU. Pure.

    It may write no file by its path, not even in a folder of its own: it has descriptors. It may
    read what the packages of the host put below `/usr`.

    Args:
        uid: Its user, and group.
        access: How it gets at KVM; None for TCG.
        opened: Descriptors that it opens once more by `/proc/self/fd`.
    """
    return Jail(
        uid=uid,
        gid=uid,
        groups=access.groups if access is not None else (),
        files=Files(
            run=PROGRAMS,
            read=LOOKED_AT,
            write=(*WRITTEN_TO, DEVICE) if access is not None else WRITTEN_TO,
            opened=opened,
        ),
        device=(access.node, DEVICE) if access is not None and access.node is not None else None,
    )


def _probe_argv(bios: int) -> list[str]:
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", argv.SANDBOX),
        *("-machine", "pc,accel=kvm,usb=off", "-cpu", "host", "-m", "4M"),
        *("-bios", f"/proc/self/fd/{bios}"),
        *("-device", '{"driver":"isa-debug-exit","iobase":244,"iosize":4}'),
    ]


def _open_problem() -> str:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{DEVICE} is missing: enable virtualisation in the firmware, load kvm_intel/kvm_amd"
    except OSError as error:
        return f"{DEVICE} cannot be opened ({error.strerror}): run labd as root"
    return ""


def _cpu_problem() -> str:
    for line in _CPUINFO.read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            if {"vmx", "svm"} & set(line.split()):
                return ""
            break
    return (
        f"{DEVICE} opens but the CPU shows neither vmx nor svm (nested or para-virtual host), "
        "where KVM may hang on a real kernel; force it with accel: kvm"
    )
