"""How an unprivileged QEMU gets at /dev/kvm, and what is read from what QEMU says there."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from labd.drivers.node.qemu.accel import plan_access
from labd.drivers.node.qemu.probe import PROBE_BIOS, Probe, Trial, cause, ending, is_of_kvm
from labd.model.machine import CpuSetting

NODE = Path("/run/labd/kvm/kvm")


@pytest.mark.parametrize(
    ("mode", "gid", "groups", "private"),
    [
        (0o666, 0, (), False),
        (0o660, 104, (104,), False),
        (0o666, 104, (), False),
        (0o660, 0, (), True),  # never root's group
        (0o600, 0, (), True),
        (0o640, 104, (), True),
        (0o664, 104, (104,), False),
    ],
)
def test_access(mode: int, gid: int, groups: tuple[int, ...], private: bool) -> None:
    access = plan_access(stat.S_IFCHR | mode, gid, NODE)
    assert access.groups == groups
    assert access.node == (NODE if private else None)
    assert "/dev/kvm" in access.text


def test_the_probe_is_a_bios() -> None:
    assert len(PROBE_BIOS) == 64 << 10
    assert PROBE_BIOS[-16:-11] == b"\xb0\x2a\xe6\xf4\xf4"  # at the reset vector


OF_AMD = """\
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]
qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69
qemu-system-x86_64: ../target/i386/kvm/kvm.c:2964: kvm_buf_set_msrs: Assertion `ret == \
cpu->kvm_msr_buf->nmsrs' failed.
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (OF_AMD, "failed to set MSR 0x10a to 0x69"),
        ("qemu-system-x86_64: -cpu x: unable to find CPU model 'x'\n", "-cpu x: unable to find"),
        ("", ""),
    ],
)
def test_the_cause_is_the_first_error(said: str, line: str) -> None:
    assert cause(said).startswith(line)
    assert bool(cause(said)) == bool(line)


@pytest.mark.parametrize(
    ("status", "said", "kvm"),
    [
        (-6, OF_AMD, True),
        (1, "Could not access KVM kernel module: Permission denied", True),
        (-9, OF_AMD, False),  # labd has killed it: it hung
        (-6, "Assertion `size' failed.", False),
        (1, "-netdev tap: could not open", False),
        (0, OF_AMD, False),
    ],
)
def test_which_end_is_the_fault_of_kvm(status: int, said: str, kvm: bool) -> None:
    assert is_of_kvm(status, said) is kvm


def test_an_ending_has_a_name() -> None:
    assert ending(-6) == "was ended by SIGABRT"
    assert ending(-99) == "was ended by signal 99"
    assert ending(1) == "ended with exit status 1"


def test_what_a_probe_comes_to() -> None:
    host, without, plain = CpuSetting
    good = Probe(trials=(Trial(cpu=host),))
    assert (good.cpu, good.problem, good.note, good.killed) == (host, "", "", False)
    second = Probe(trials=(Trial(cpu=host, problem="it died"), Trial(cpu=without)))
    assert (second.cpu, second.problem) == (without, "")
    assert second.note == "with host,migratable=on it does not: it died"
    none = Probe(trials=tuple(Trial(cpu=cpu, problem="it died") for cpu in (host, without, plain)))
    assert (none.cpu, none.note) == (None, "")
    assert none.problem == "the probe guest failed under KVM: it died"  # once, not thrice
    blocked = Probe(blocked="/dev/kvm: No such file")
    assert (blocked.cpu, blocked.problem) == (None, "/dev/kvm: No such file")
