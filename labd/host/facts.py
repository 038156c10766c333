"""What this host is and can do, gathered by trying. `labd.host.doctor` judges it."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from labd.host import cgroups, landlock, tuning
from labd.host.commands import run
from labd.host.config import Config
from labd.host.paths import Paths, closed_ancestor
from labd.host.spawn import SEARCH_PATH
from labd.host.threads import quick
from labd.host.tuning import KsmState
from labd.model.errors import CommandFailed
from labd.model.quotas import Quotas

# systemd-resolved's list of real servers; its stub on the loopback is nobody's in a namespace.
_FILES: Final = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


def host_resolvers(files: tuple[Path, ...] = _FILES) -> str:
    """Return the path of the host's resolv.conf(5) with servers that others reach, else nothing."""
    return next((str(path) for path in files if path.is_file()), "")


_NAT: Final = (
    "add table inet t0;"
    "add chain inet t0 c { type nat hook postrouting priority srcnat; };"
    "add rule inet t0 c ct state new fib daddr type local masquerade"
)
_BRIDGE: Final = (
    "add table bridge t0;"
    "add chain bridge t0 c { type filter hook prerouting priority 0; };"
    "add rule bridge t0 c arp saddr ip 10.0.0.1 counter drop"
)
# What the kernel must be able to do, and a command that needs it. Each runs in an empty network
# namespace of its own, which vanishes with the command.
KERNEL_TRIALS: Final[Mapping[str, Sequence[str]]] = {
    "network namespaces": ("true",),
    "bridge": ("ip", "link", "add", "t0", "type", "bridge"),
    "tun/tap": ("ip", "tuntap", "add", "t0", "mode", "tap"),
    "veth": ("ip", "link", "add", "t0", "type", "veth", "peer", "name", "t1"),
    "vlan filtering": ("ip", "link", "add", "t0", "type", "bridge", "vlan_filtering", "1"),
    "vlan": ("ip", "link", "add", "link", "lo", "name", "t0", "type", "vlan", "id", "5"),
    "vxlan": ("ip", "link", "add", "t0", "type", "vxlan", "id", "1", "dstport", "4789"),
    "netem": ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"),
    "nftables": ("nft", "add", "table", "inet", "t0"),
    "nftables nat": ("nft", _NAT),
    "nftables bridge": ("nft", _BRIDGE),
}
# The options of the kernel's configuration behind them, for messages.
KERNEL_OPTIONS: Final[Mapping[str, str]] = {
    "veth": "CONFIG_VETH",
    "vlan": "CONFIG_VLAN_8021Q",
    "nftables nat": "CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET and CONFIG_NFT_CT",
    "nftables bridge": "CONFIG_NF_TABLES_BRIDGE",
}
# Each program labd runs, and whether it can do without.
PROGRAMS: Final[Mapping[str, bool]] = {
    "qemu-system-x86_64": True,
    "qemu-img": True,
    "ip": True,
    "nft": True,
    "unshare": True,
    "nsenter": True,
    "setpriv": True,
    "prlimit": True,
    "mosquitto": True,
    "dnsmasq": False,
    "tc": False,
    "tcpdump": False,
    "cpio": False,
    "zstd": False,
    "xz": False,
}
OVMF: Final = (
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The host as it was found.

    Attributes:
        kvm_device: `absent`, `closed` (present, but this user cannot open it) or `open`.
        cpu_flag: `vmx`, `svm` or empty, from `/proc/cpuinfo`.
        programs: Program -> path, None when it is not there.
        qemu_version: As (7, 2, 22); empty when QEMU does not tell.
        kernel: Release, as in uname(2).
        trials: Kernel feature -> why it failed, empty when it works; nothing when not root.
        landlock: Version of Landlock's interface, 0 for none.
        firewalls: Chains of others that by default drop what the host would forward.
        cgroup: 1, 2 or 0 for none.
        firmware: The UEFI image that was found, or None.
        euid: Effective user id of this process.
        group: Name of the group that may use the API.
        group_exists: That it is in the group database.
        closed: The first folder that machines' users cannot pass through to the disks.
        state: Folder of images and disks.
        open_files: Soft and hard RLIMIT_NOFILE.
        memory_total: Bytes.
        memory_available: Bytes that the kernel says can be given to new processes.
        memory_reserve: Bytes that labd leaves to the host.
        disk_free: Bytes free where images and disks go.
        cpus: That this process may use.
        ksm: How merging of equal memory stands.
        quotas: What each lab may have at most.
        cgroups_wanted: Machines shall be bounded by control groups.
        cgroup_problem: Why version 2 cannot bound machines, or not by everything.
    """

    kvm_device: str
    cpu_flag: str
    programs: Mapping[str, str | None]
    qemu_version: tuple[int, ...]
    kernel: str
    trials: Mapping[str, str]
    landlock: int
    firewalls: tuple[str, ...]
    cgroup: int
    firmware: str | None
    euid: int
    group: str
    group_exists: bool
    closed: Path | None
    state: Path
    open_files: tuple[int, int]
    memory_total: int
    memory_available: int
    memory_reserve: int
    disk_free: int
    cpus: int
    ksm: KsmState = field(default_factory=KsmState)
    quotas: Quotas = field(default_factory=Quotas)
    cgroups_wanted: bool = True
    cgroup_problem: str = ""


async def gather(paths: Paths, config: Config) -> Facts:
    """Look at the host; takes some tens of milliseconds and changes nothing."""
    programs = {name: shutil.which(name, path=SEARCH_PATH) for name in PROGRAMS}
    memory = await quick(read_meminfo)
    return Facts(
        kvm_device=kvm_device(),
        cpu_flag=await quick(cpu_flag),
        programs=programs,
        qemu_version=await _qemu_version(programs["qemu-system-x86_64"]),
        kernel=os.uname().release,
        trials=await _trials() if os.geteuid() == 0 else {},
        landlock=landlock.abi(),
        firewalls=await _firewalls() if os.geteuid() == 0 else (),
        cgroup=_cgroup(),
        firmware=_firmware(),
        euid=os.geteuid(),
        group=config.daemon.group,
        group_exists=_group_exists(config.daemon.group),
        closed=await quick(closed_ancestor, paths.state),
        state=paths.state,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        memory_total=memory["MemTotal"],
        memory_available=memory["MemAvailable"],
        memory_reserve=config.daemon.memory_reserve_mib << 20,
        disk_free=await quick(_disk_free, paths.state),
        cpus=len(os.sched_getaffinity(0)),
        ksm=await quick(tuning.read_ksm, config.memory.ksm),
        quotas=config.quotas.of_labs(),
        cgroups_wanted=config.memory.cgroups != "off",
        cgroup_problem=await quick(lambda: cgroups.probe("doctor").problem),
    )


def kvm_device(path: str = "/dev/kvm") -> str:
    """Return `absent`, `closed` or `open`; opening it is no proof that KVM works."""
    if not os.path.exists(path):
        return "absent"
    return "open" if os.access(path, os.R_OK | os.W_OK) else "closed"


def cpu_flag(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the flag of hardware virtualisation that the first CPU shows: vmx, svm or empty."""
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            return "vmx" if "vmx" in flags else "svm" if "svm" in flags else ""
    return ""


def read_meminfo(meminfo: Path = Path("/proc/meminfo")) -> dict[str, int]:
    """Return the fields of `/proc/meminfo` (proc(5)) in bytes."""
    fields = {}
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        fields[name] = int(number) * (1024 if unit == "kB" else 1)
    return fields


def own_memory(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the bytes of memory that a process shares with no other; 0 when it is gone.

    These are its anonymous pages: of a private mapping, those that it has written (proc(5),
    `smaps_rollup`).
    """
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Anonymous:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def parse_qemu_version(text: str) -> tuple[int, ...]:
    """Return the numbers of `QEMU emulator version 7.2.22 (…)`; empty when there are none."""
    found = re.search(r"version (\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


async def _qemu_version(program: str | None) -> tuple[int, ...]:
    if program is None:
        return ()
    try:
        done = await run([program, "--version"], timeout=10)
    except CommandFailed:
        return ()
    return parse_qemu_version(done.stdout.decode(errors="replace"))


async def _trials() -> dict[str, str]:
    outcomes = await asyncio.gather(*(try_feature(name) for name in KERNEL_TRIALS))
    return dict(zip(KERNEL_TRIALS, outcomes, strict=True))


async def try_feature(name: str) -> str:
    """Try one of KERNEL_TRIALS; return why it failed, empty when it works."""
    try:
        await run(["unshare", "--net", "--", *KERNEL_TRIALS[name]], timeout=10)
    except CommandFailed as error:
        said = str(error.details.get("stderr", "")).splitlines()
        # nft shows the place of an error below it.
        plain = [line for line in said if "Error:" in line] or said[-1:]
        return plain[0] if plain else error.message
    return ""


async def _firewalls() -> tuple[str, ...]:
    try:
        done = await run(["nft", "-j", "list", "chains"], timeout=10)
    except CommandFailed:
        return ()  # that nft does not work is told by itself
    return dropping_chains(done.stdout)


def dropping_chains(said: bytes) -> tuple[str, ...]:
    """Return the chains that see forwarded packets and drop them by default.

    Args:
        said: What `nft -j list chains` says (libnftables-json(5)).
    """
    chains = [entry["chain"] for entry in json.loads(said)["nftables"] if "chain" in entry]
    return tuple(
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    )


def _firmware() -> str | None:
    return next((path for path in OVMF if os.path.exists(path)), None)


def _cgroup() -> int:
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return 2
    return 1 if os.path.exists("/sys/fs/cgroup/memory") else 0


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _disk_free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
