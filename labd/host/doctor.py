"""Judging a host: what is fine, what limits it, what stops it, and what to do about each.

    findings = judge(await gather(paths, config), kvm_probe=probe.problem)

`judge` is pure; the live KVM probe is an argument because it starts a guest, which is the
hypervisor's to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from labd.host.facts import PROGRAMS, Facts
from labd.host.spawn import PACKAGES
from labd.host.tuning import KsmState
from labd.model.quotas import Quotas
from labd.model.units import GIB, MIB, format_size

_OLDEST_QEMU = (7, 2)
_FEW_FILES = 4096
_LITTLE_DISK = 2 * GIB
_LITTLE_MEMORY = 256 * MIB
# Kernel features without which no lab can run; the rest only limit what labs can do.
_NEEDED = frozenset({"network namespaces", "bridge", "tun/tap"})
_MODULES = {
    "tun/tap": "tun",
    "vlan filtering": "bridge",
    "netem": "sch_netem",
    "vlan": "8021q",
    "nftables": "nf_tables",
    "nftables nat": "nft_masq nft_fib_inet",
    "nftables bridge": "nft_meta_bridge",
}


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"  # labs run, with limits
    FAIL = "fail"  # no lab can run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `lab doctor`. `advice` is empty when all is well."""

    name: str
    level: Level
    text: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as the API gives it."""
        return {
            "name": self.name,
            "level": str(self.level),
            "text": self.text,
            "advice": self.advice,
        }


def judge(
    facts: Facts,
    *,
    kvm_probe: str | None = None,
    kvm_access: str = "",
    kvm_cpu: str = "",
    kvm_note: str = "",
) -> list[Finding]:
    """Return a finding for everything labd depends on, in the order of importance.

    Args:
        facts: From `labd.host.facts.gather`.
        kvm_probe: Empty when a tiny guest ran under KVM, else why not; None when it was not tried.
        kvm_access: How machines get at `/dev/kvm`, for the one who reads.
        kvm_cpu: The `-cpu` with which the guest ran.
        kvm_note: Why that is not the best one.
    """
    cpu = f"-cpu {kvm_cpu}" if kvm_cpu else ""
    how = "".join(f"; {text}" for text in (cpu, kvm_note, kvm_access) if text)
    return [
        *_permissions(facts),
        _kvm(facts, kvm_probe, how),
        _qemu(facts),
        *_programs(facts),
        *_kernel(facts),
        *_firewalls(facts),
        *_limits(facts),
    ]


def _permissions(facts: Facts) -> Iterator[Finding]:
    if facts.euid == 0:
        yield Finding(name="root", level=Level.OK, text="running as root")
    else:
        yield Finding(
            name="root",
            level=Level.FAIL,
            text=f"running as user id {facts.euid}, which cannot make namespaces and taps",
            advice="run labd as root (systemctl start labd, or sudo labd serve)",
        )
    if facts.group_exists:
        yield Finding(name="group", level=Level.OK, text=f"group {facts.group} may use the API")
    else:
        yield Finding(
            name="group",
            level=Level.WARN,
            text=f"there is no group {facts.group}, so only root can use the API",
            advice=f"groupadd --system {facts.group}, then usermod -aG {facts.group} USER",
        )
    if facts.closed is None:
        yield Finding(
            name="folders", level=Level.OK, text=f"others can pass through to {facts.state}"
        )
    else:
        yield Finding(
            name="folders",
            level=Level.WARN,
            text=f"the users of plugins cannot pass through {facts.closed}",
            advice=f"chmod o+x {facts.closed}, or give another --root",
        )


def _kvm(facts: Facts, probe: str | None, how: str) -> Finding:
    def slow(text: str, advice: str) -> Finding:
        text = f"{text}; machines run by software emulation (TCG), several times slower"
        return Finding(name="kvm", level=Level.WARN, text=text, advice=advice)

    if facts.kvm_device == "absent":
        if facts.cpu_flag:
            return slow(
                f"the CPU shows {facts.cpu_flag} but there is no /dev/kvm",
                f"modprobe kvm_{'intel' if facts.cpu_flag == 'vmx' else 'amd'}",
            )
        return slow(
            "the CPU shows neither vmx nor svm and there is no /dev/kvm",
            "enable virtualisation in the firmware, or nested virtualisation in the host above",
        )
    if facts.kvm_device == "closed":
        return slow("/dev/kvm cannot be opened", "run labd as root, or add its user to group kvm")
    if not facts.cpu_flag:
        return slow(
            "/dev/kvm opens, but the CPU shows neither vmx nor svm, so a real kernel may hang",
            "enable nested virtualisation in the host above; accel: kvm forces it for tiny guests",
        )
    if probe:
        return slow(
            f"/dev/kvm opens and the CPU shows {facts.cpu_flag}, but a probe guest failed: {probe}",
            "look at dmesg for kvm; accel: kvm forces it where QEMU hangs, not where it dies",
        )
    tried = "a probe guest ran" if probe == "" else "not tried with a guest"
    return Finding(
        name="kvm",
        level=Level.OK if probe == "" else Level.WARN,
        text=f"/dev/kvm opens, the CPU shows {facts.cpu_flag}, {tried}{how}",
        advice="" if probe == "" else "start labd, which tries it",
    )


def _qemu(facts: Facts) -> Finding:
    version = ".".join(map(str, facts.qemu_version))
    if facts.qemu_version >= _OLDEST_QEMU:
        return Finding(name="qemu", level=Level.OK, text=f"QEMU {version}")
    oldest = ".".join(map(str, _OLDEST_QEMU))
    return Finding(
        name="qemu",
        level=Level.FAIL,
        text=f"QEMU {version} is too old" if version else "QEMU does not run",
        advice=f"install QEMU {oldest} or newer: apt-get install qemu-system-x86",
    )


def _programs(facts: Facts) -> Iterator[Finding]:
    missing = [name for name in PROGRAMS if facts.programs.get(name) is None]
    for name in missing:
        yield Finding(
            name=f"program {name}",
            level=Level.FAIL if PROGRAMS[name] else Level.WARN,
            text=f"{name} is not installed",
            advice=f"apt-get install --no-install-recommends {PACKAGES[name]}",
        )
    if not missing:
        yield Finding(name="programs", level=Level.OK, text="all programs are installed")
    if facts.firmware is None:
        yield Finding(
            name="uefi",
            level=Level.WARN,
            text="there is no UEFI firmware, so firmware: uefi cannot be used",
            advice="apt-get install --no-install-recommends ovmf",
        )
    else:
        yield Finding(name="uefi", level=Level.OK, text=f"UEFI firmware {facts.firmware}")


def _kernel(facts: Facts) -> Iterator[Finding]:
    broken = {name: why for name, why in facts.trials.items() if why}
    for name, why in broken.items():
        module = _MODULES.get(name, name)
        yield Finding(
            name=f"kernel {name}",
            level=Level.FAIL if name in _NEEDED else Level.WARN,
            text=f"kernel {facts.kernel} cannot do {name}: {why}",
            advice="allow namespaces to this container"
            if name == "network namespaces"
            else f"modprobe {module}, or run a kernel that has it",
        )
    if not facts.trials:
        yield Finding(
            name="kernel",
            level=Level.WARN,
            text=f"kernel {facts.kernel}: what it can do was not tried",
            advice="run `lab doctor` against a labd that runs as root",
        )
    elif not broken:
        features = ", ".join(facts.trials)
        yield Finding(
            name="kernel", level=Level.OK, text=f"kernel {facts.kernel} can do {features}"
        )
    yield _landlock(facts.landlock)
    yield _cgroup(facts)


def _cgroup(facts: Facts) -> Finding:
    if not facts.cgroups_wanted:
        text = "machines are not bounded by control groups, as labd.toml says"
        return Finding(name="cgroup", level=Level.OK, text=text)
    if facts.cgroup == 2 and not facts.cgroup_problem:
        text = "control groups version 2 bound the memory, CPU time and threads of machines"
        return Finding(name="cgroup", level=Level.OK, text=text)
    version = f"version {facts.cgroup}" if facts.cgroup else "none"
    why = f" ({facts.cgroup_problem})" if facts.cgroup_problem else ""
    return Finding(
        name="cgroup",
        level=Level.WARN,
        text=f"control groups: {version}; CPU and memory of machines cannot be capped{why}",
        advice="hand the controllers cpu, memory and pids down to this container"
        if facts.cgroup == 2
        else "boot with systemd.unified_cgroup_hierarchy=1",
    )


def _landlock(version: int) -> Finding:
    if version:
        return Finding(
            name="landlock",
            level=Level.OK,
            text=f"Landlock {version}: QEMU can open no file that it was not given",
        )
    return Finding(
        name="landlock",
        level=Level.WARN,
        text="the kernel has no Landlock: a guest that breaks out of QEMU may open what is open to "
        "all users, and write to /tmp",
        advice="boot with landlock among the names of lsm=, or run Linux 5.13 or newer",
    )


def _quotas(quotas: Quotas) -> Finding:
    said = [
        *([f"{quotas.nodes} nodes"] if quotas.nodes else []),
        *([f"{quotas.vcpus} vCPUs"] if quotas.vcpus else []),
        *([f"{format_size(quotas.memory)} of memory"] if quotas.memory else []),
        *([f"{format_size(quotas.disk)} of disk"] if quotas.disk else []),
        *([f"{format_size(quotas.written)} written to it"] if quotas.written else []),
    ]
    text = f"a lab may have at most {', '.join(said)}" if said else "labs have no quotas"
    return Finding(name="quotas", level=Level.OK, text=text)


def _ksm(ksm: KsmState) -> Finding:
    if ksm.wanted == "off":
        text = "equal memory of machines is not merged, as labd.toml says"
        return Finding(name="ksm", level=Level.OK, text=text)
    if ksm.run is None:
        return Finding(
            name="ksm",
            level=Level.WARN,
            text="this kernel has no KSM: equal memory of machines is not merged",
            advice='run a kernel with CONFIG_KSM, or say ksm = "off" below [memory] in labd.toml',
        )
    if ksm.run == 1:
        saved = f"{format_size(ksm.saved)} is saved by it now"
        return Finding(name="ksm", level=Level.OK, text=f"the kernel merges equal memory; {saved}")
    return Finding(
        name="ksm",
        level=Level.WARN,
        text="the host does not merge equal memory of machines: /sys/kernel/mm/ksm/run is "
        f"{ksm.run}",
        advice='ksm = "on" below [memory] in labd.toml has labd switch it on while it runs; "off" '
        "says that labs shall share nothing that could tell one of the other",
    )


def _firewalls(facts: Facts) -> Iterator[Finding]:
    for chain in facts.firewalls:
        yield Finding(
            name="firewall",
            level=Level.WARN,
            text=f"chain {chain} drops by default what the host would forward, so that uplink nat "
            "leads nowhere unless the chain lets it pass",
            advice="with docker: iptables -I DOCKER-USER -i v+ -j ACCEPT, and the same with -o; "
            "docs/networks.md tells more",
        )


def _limits(facts: Facts) -> Iterator[Finding]:
    soft, hard = facts.open_files
    enough = hard < 0 or hard >= _FEW_FILES
    yield Finding(
        name="open files",
        level=Level.OK if enough else Level.WARN,
        text=f"{soft} open files, {hard} at most" if hard >= 0 else f"{soft} open files",
        advice="" if enough else f"raise LimitNOFILE= to {_FEW_FILES} or more",
    )
    left = facts.memory_available - facts.memory_reserve
    yield Finding(
        name="memory",
        level=Level.OK if left >= _LITTLE_MEMORY else Level.WARN,
        text=f"{format_size(facts.memory_available)} of {format_size(facts.memory_total)} is free, "
        f"{format_size(facts.memory_reserve)} of it is the host's",
        advice=""
        if left >= _LITTLE_MEMORY
        else "stop a lab or add memory; memory_reserve_mib in labd.toml sets the host's part",
    )
    yield Finding(
        name="disk",
        level=Level.OK if facts.disk_free >= _LITTLE_DISK else Level.WARN,
        text=f"{format_size(facts.disk_free)} is free at {facts.state}",
        advice=""
        if facts.disk_free >= _LITTLE_DISK
        else "remove images that are not used (lab image ls), or give another --root",
    )
    yield _ksm(facts.ksm)
    yield _quotas(facts.quotas)
    yield Finding(name="cpus", level=Level.OK, text=f"{facts.cpus} CPUs")
