"""The doctor: each judgement on made-up facts, and the gathering on this very host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labd.host.config import Config
from labd.host.doctor import Finding, Level, judge
from labd.host.facts import (
    KERNEL_TRIALS,
    PROGRAMS,
    Facts,
    cpu_flag,
    dropping_chains,
    gather,
    kvm_device,
    parse_qemu_version,
    read_meminfo,
)
from labd.host.spawn import PACKAGES
from labd.host.tuning import KsmState
from labd.model.paths import Paths
from labd.model.quotas import Quotas
from labd.model.units import GIB, MIB

HEALTHY = Facts(
    kvm_device="open",
    cpu_flag="svm",
    programs={name: f"/usr/bin/{name}" for name in PROGRAMS},
    qemu_version=(7, 2, 22),
    kernel="6.1.0",
    trials=dict.fromkeys(KERNEL_TRIALS, ""),
    landlock=4,
    firewalls=(),
    cgroup=2,
    firmware="/usr/share/OVMF/OVMF_CODE.fd",
    euid=0,
    group="labd",
    group_exists=True,
    closed=None,
    state=Path("/var/lib/labd"),
    open_files=(1024, 524288),
    memory_total=8 * GIB,
    memory_available=6 * GIB,
    memory_reserve=512 * MIB,
    disk_free=100 * GIB,
    cpus=4,
    ksm=KsmState(run=1, saved=3 * MIB),
)


def bad(facts: Facts, probe: str | None = "") -> list[Finding]:
    return [found for found in judge(facts, kvm_probe=probe) if found.level is not Level.OK]


def test_a_healthy_host_has_nothing_to_advise() -> None:
    findings = judge(HEALTHY, kvm_probe="")
    assert {found.level for found in findings} == {Level.OK}
    assert {found.advice for found in findings} == {""}
    assert findings[3].as_dict() == {
        "name": "kvm",
        "level": "ok",
        "text": "/dev/kvm opens, the CPU shows svm, a probe guest ran",
        "advice": "",
    }


def test_the_cpu_of_machines_with_kvm_is_told_with_the_reason() -> None:
    findings = judge(
        HEALTHY,
        kvm_probe="",
        kvm_access="/dev/kvm is open to all",
        kvm_cpu="kvm64",
        kvm_note="with host it does not: it died",
    )
    assert findings[3].level is Level.OK
    assert findings[3].text.endswith(
        "a probe guest ran; -cpu kvm64; with host it does not: it died; /dev/kvm is open to all"
    )


@pytest.mark.parametrize(
    ("change", "level", "name", "text", "advice"),
    [
        ({"euid": 1000}, "fail", "root", "user id 1000", "sudo labd serve"),
        ({"group_exists": False}, "warn", "group", "no group labd", "groupadd --system labd"),
        ({"closed": Path("/root")}, "warn", "folders", "through /root", "chmod o+x /root"),
        ({"kvm_device": "absent"}, "warn", "kvm", "shows svm but", "modprobe kvm_amd"),
        (
            {"kvm_device": "absent", "cpu_flag": ""},
            "warn",
            "kvm",
            "neither vmx nor svm and there is no /dev/kvm",
            "enable virtualisation",
        ),
        ({"kvm_device": "closed"}, "warn", "kvm", "cannot be opened", "group kvm"),
        ({"cpu_flag": ""}, "warn", "kvm", "may hang", "nested virtualisation"),
        ({"qemu_version": (6, 0)}, "fail", "qemu", "QEMU 6.0 is too old", "QEMU 7.2 or newer"),
        ({"qemu_version": ()}, "fail", "qemu", "does not run", "apt-get install"),
        ({"firmware": None}, "warn", "uefi", "no UEFI firmware", "ovmf"),
        ({"cgroup": 1}, "warn", "cgroup", "version 1", "unified_cgroup_hierarchy"),
        ({"landlock": 0}, "warn", "landlock", "no Landlock", "lsm="),
        ({"trials": {}}, "warn", "kernel", "was not tried", "runs as root"),
        ({"open_files": (256, 1024)}, "warn", "open files", "1024 at most", "LimitNOFILE"),
        ({"memory_available": 600 * MIB}, "warn", "memory", "600 MiB of 8 GiB", "stop a lab"),
        ({"ksm": KsmState(run=0)}, "warn", "ksm", "ksm/run is 0", 'ksm = "on"'),
        ({"ksm": KsmState(wanted="on")}, "warn", "ksm", "has no KSM", 'ksm = "off"'),
        ({"disk_free": MIB}, "warn", "disk", "1 MiB is free", "lab image ls"),
    ],
)
def test_each_trouble_is_told_with_a_way_out(
    change: dict[str, object], level: str, name: str, text: str, advice: str
) -> None:
    (found,) = bad(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert (found.name, found.level) == (name, level)
    assert text in found.text
    assert advice in found.advice


def test_a_probe_that_failed_or_was_not_made() -> None:
    (failed,) = bad(HEALTHY, probe="no answer in 5 s")
    assert "a probe guest failed: no answer in 5 s; machines run by software" in failed.text
    (untried,) = bad(HEALTHY, probe=None)
    assert untried.advice == "start labd, which tries it"


def test_merging_that_works_or_is_not_wanted_is_well() -> None:
    for state, text in (
        (KsmState(run=1, saved=3 * MIB), "3 MiB is saved"),
        (KsmState(run=0, wanted="off"), "as labd.toml says"),
    ):
        (found,) = (item for item in judge(replace(HEALTHY, ksm=state)) if item.name == "ksm")
        assert found.level is Level.OK
        assert text in found.text


def test_quotas_and_groups_are_told() -> None:
    quotas = Quotas(nodes=4, vcpus=8, memory=GIB, disk=2 * GIB, written=3 * GIB)
    told = {item.name: item for item in judge(replace(HEALTHY, quotas=quotas))}
    assert told["quotas"].text == (
        "a lab may have at most 4 nodes, 8 vCPUs, 1 GiB of memory, 2 GiB of disk, "
        "3 GiB written to it"
    )
    told = {item.name: item for item in judge(replace(HEALTHY, cgroups_wanted=False))}
    assert told["quotas"].text == "labs have no quotas"
    assert told["cgroup"].level is Level.OK
    lacks = "cgroup v2 at /x has no controller cpu"
    told = {item.name: item for item in judge(replace(HEALTHY, cgroup_problem=lacks))}
    assert told["cgroup"].level is Level.WARN
    assert told["cgroup"].text.endswith(f"({lacks})")
    assert told["cgroup"].advice.startswith("hand the controllers")


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_each_missing_program_names_its_package(name: str) -> None:
    (found,) = bad(replace(HEALTHY, programs={**HEALTHY.programs, name: None}))
    assert found.level == ("fail" if PROGRAMS[name] else "warn")
    assert found.advice.endswith(f" {PACKAGES[name]}")


@pytest.mark.parametrize("name", sorted(KERNEL_TRIALS))
def test_each_kernel_feature(name: str) -> None:
    (found,) = bad(replace(HEALTHY, trials={**HEALTHY.trials, name: "Operation not supported"}))
    needed = name in {"network namespaces", "bridge", "tun/tap"}
    assert found.level == ("fail" if needed else "warn")
    assert f"cannot do {name}: Operation not supported" in found.text


def test_a_firewall_that_drops_what_is_forwarded_is_told() -> None:
    said = b"""{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"chain": {"family": "ip", "table": "nat", "name": "DOCKER", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 2,
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 3,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"""
    chains = dropping_chains(said)
    assert chains == ("ip filter FORWARD",)
    (found,) = bad(replace(HEALTHY, firewalls=chains))
    assert found.level is Level.WARN
    assert found.text == (
        "chain ip filter FORWARD drops by default what the host would forward, so that uplink nat "
        "leads nowhere unless the chain lets it pass"
    )
    assert "iptables -I DOCKER-USER -i v+ -j ACCEPT" in found.advice


async def test_this_host_is_gathered(tmp_path: Path) -> None:
    facts = await gather(Paths.below(tmp_path), Config())
    assert facts.qemu_version >= (7, 2)
    assert facts.programs["ip"]
    assert 0 < facts.memory_available < facts.memory_total
    assert facts.disk_free > 0
    for feature in ("bridge", "tun/tap"):
        assert facts.trials.get(feature, "") == ""
    assert judge(facts)


def test_the_texts_that_are_read(tmp_path: Path) -> None:
    assert parse_qemu_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)") == (7, 2, 22)
    assert parse_qemu_version("rubbish") == ()
    info = tmp_path / "info"
    info.write_text("processor : 0\nflags\t\t: fpu vmx sse\n")
    assert cpu_flag(info) == "vmx"
    info.write_text("processor : 0\nflags\t\t: fpu svmx\n")
    assert cpu_flag(info) == ""
    info.write_text("")
    assert cpu_flag(info) == ""
    info.write_text("MemTotal:  100 kB\nHugePages_Total:   3\n")
    assert read_meminfo(info) == {"MemTotal": 102400, "HugePages_Total": 3}
    assert kvm_device(str(tmp_path / "none")) == "absent"
    assert kvm_device(str(info)) == "open"
