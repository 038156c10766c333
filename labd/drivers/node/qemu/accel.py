"""Which accelerator a machine gets, and how an unprivileged QEMU gets at `/dev/kvm`.

`/dev/kvm` opening is no proof: under some hypervisors it opens, runs real-mode code, and hangs on
a real kernel. So `auto` is KVM only where the CPU shows vmx or svm *and* a guest of five bytes
passes (`probe`), with the first `CpuSetting` with which it does. `kvm` asks for the guest alone.

QEMU opens `/dev/kvm` itself, as the VM's user (version 7.2 has no option to inherit it). Where the
device is open to all, or to a group, that is enough: the VM gets that group. Where it is root's
alone, the device is left as it is; the VM gets a node of its own in a private mount namespace (as
libvirt does), which no other process can see.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.drivers.node.qemu import argv
from labd.drivers.node.qemu.probe import Probe, Trial, try_cpu
from labd.host.jail import LOOKED_AT, PROGRAMS, WRITTEN_TO, Jail
from labd.host.landlock import Files
from labd.host.threads import quick
from labd.model.errors import AcceleratorFailed, LaunchFailed
from labd.model.machine import AccelChoice, CpuSetting
from labd.model.specs import Accel

DEVICE: Final = Path("/dev/kvm")
CPUINFO: Final = Path("/proc/cpuinfo")
_PROBE_USER = 65534  # nobody


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
        program: The QEMU that is probed.
        cpuinfo: Where the kernel tells the features of the CPU.
    """

    def __init__(self, folder: Path, program: str = argv.PROGRAM, cpuinfo: Path = CPUINFO) -> None:
        self._node = folder / "kvm" / "kvm"
        self._program = program
        self._cpuinfo = cpuinfo
        self._lock = asyncio.Lock()
        self._auto: AccelChoice | None = None
        self._best: AccelChoice | None = None  # with KVM; only what works is remembered
        self._working: set[CpuSetting] = set()

    async def choose(self, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        """Return the choice; what works is remembered, and what `auto` comes to.

        Args:
            wanted: `auto` becomes KVM where it works, else TCG.
            cpu: With `kvm`, the only CPU that will do; None for the best that works.

        Raises:
            LaunchFailed: `kvm` is wanted and cannot be opened.
            AcceleratorFailed: `kvm` is wanted, and QEMU dies with it.
        """
        if wanted is Accel.TCG:
            return AccelChoice(kvm=False)
        async with self._lock:
            if wanted is Accel.KVM:
                return await self._force(cpu)
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

    async def probe(self) -> Probe:
        """Find the best CPU setting with which KVM runs a guest, now.

        Each setting has `PROBE_TIMEOUT` seconds. When QEMU has to be killed, no other one is tried:
        that says nothing about the setting.
        """
        try:
            jail = jail_for(_PROBE_USER, self.access())
        except LaunchFailed as error:
            return Probe(blocked=error.message)
        trials: list[Trial] = []
        for cpu in CpuSetting:
            trials.append(await try_cpu(self._program, cpu, jail))
            if trials[-1].killed or not trials[-1].problem:
                break
        return Probe(trials=tuple(trials))

    def forget(self) -> None:
        """Forget what was found to work, so that the next choice is made anew."""
        self._auto = self._best = None
        self._working.clear()

    async def _force(self, cpu: CpuSetting | None) -> AccelChoice:
        problem = await quick(_open_problem)
        if problem:
            raise LaunchFailed(f"{problem}; or set accel: tcg")
        if cpu is not None:
            await self._require(cpu)
            return AccelChoice(kvm=True, cpu=cpu)
        found = await self._find_best()
        if isinstance(found, AccelChoice):
            return found
        if found.blocked:
            raise LaunchFailed(f"{found.blocked}; or set accel: tcg")
        if found.killed:  # as on a host that is too busy: whoever asks for KVM shall have it
            return AccelChoice(kvm=True)
        raise AcceleratorFailed(f"{found.problem}; set accel: tcg, or see `lab doctor`")

    async def _find_best(self) -> AccelChoice | Probe:
        """Return the best choice with KVM, remembered; what was tried if there is none."""
        if self._best is None:
            probe = await self.probe()
            if probe.cpu is None:
                return probe
            self._working.add(probe.cpu)
            self._best = AccelChoice(kvm=True, cpu=probe.cpu, note=probe.note)
        return self._best

    async def _require(self, cpu: CpuSetting) -> None:
        """Raise AcceleratorFailed if QEMU dies with this very setting."""
        if cpu in self._working:
            return
        trial = await try_cpu(self._program, cpu, jail_for(_PROBE_USER, self.access()))
        if not trial.problem:
            self._working.add(cpu)
        elif not trial.killed:
            raise AcceleratorFailed(
                f"KVM runs no machine with -cpu {cpu} here: {trial.problem}; "
                "boot it anew, which chooses a CPU that works, or set accel: tcg"
            )

    async def _decide(self) -> AccelChoice:
        problem = await quick(_open_problem)
        problem = problem or await quick(_cpu_problem, self._cpuinfo)
        if not problem:
            found = await self._find_best()
            if isinstance(found, AccelChoice):
                return found
            problem = found.problem
        return AccelChoice(
            kvm=False, warning=f"software emulation (TCG), 10 to 30 times slower: {problem}"
        )

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


def _open_problem() -> str:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{DEVICE} is missing: enable virtualisation in the firmware, load kvm_intel/kvm_amd"
    except OSError as error:
        return f"{DEVICE} cannot be opened ({error.strerror}): run labd as root"
    return ""


def _cpu_problem(cpuinfo: Path) -> str:
    for line in cpuinfo.read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            if {"vmx", "svm"} & set(line.split()):
                return ""
            break
    return (
        f"{DEVICE} opens but the CPU shows neither vmx nor svm (nested or para-virtual host), "
        "where KVM may hang on a real kernel; force it with accel: kvm"
    )
