"""Real KVM: whether it runs machines, with which CPU, and what is said where it does not.

Where a host is needed whose KVM refuses a CPU, a program stands in front of the real QEMU that dies
as QEMU dies there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labd.drivers.node.qemu import QemuHypervisor, argv
from labd.drivers.node.qemu.accel import CPUINFO, DEVICE, Accelerator
from labd.drivers.node.qemu.probe import PROBE_TIMEOUT
from labd.host import identity
from labd.model.errors import AcceleratorFailed
from labd.model.machine import CpuSetting, RunState
from labd.model.specs import Accel, Machine
from tests.disks import FileDisks
from tests.guests import UP, machine_spec

pytestmark = pytest.mark.skipif(not DEVICE.exists(), reason="this host has no /dev/kvm")

REFUSED = "failed to set MSR 0x10a to 0x69"
# What QEMU 7.2 says on an AMD host where KVM offers ARCH_CAPABILITIES.
_DIES = f"""
echo "{argv.PROGRAM}: error: {REFUSED}" >&2
echo "{argv.PROGRAM}: ../target/i386/kvm/kvm.c:2964: kvm_buf_set_msrs: Assertion failed." >&2
ulimit -c 0
kill -ABRT $$
"""
_REAL = f'exec "{shutil.which(argv.PROGRAM)}" "$@"\n'
OF_AMD = f"""#!/bin/sh
case " $* " in
*accel=kvm*)
  case " $* " in
  *"-cpu host,"*arch-capabilities=off*) ;;
  *"-cpu host"*) {_DIES} ;;
  esac ;;
esac
{_REAL}"""
WITHOUT_KVM = f"""#!/bin/sh
case " $* " in *accel=kvm*) {_DIES} ;; esac
{_REAL}"""
HANGS = """#!/bin/sh
exec sleep 1000
"""

StandIn = Callable[[str], str]


@dataclass
class Host:
    root: Path

    def hypervisor(self, program: str = argv.PROGRAM) -> QemuHypervisor:
        return QemuHypervisor(
            self.root.name[-8:].replace("_", "-").lower(),
            self.root,
            None,
            storage=FileDisks(),
            program=program,
        )

    async def up(self, hv: QemuHypervisor, kind: Machine, cpu: CpuSetting) -> int:
        machine = machine_spec(self.root, "k1", machine=kind, kvm=True, cpu=cpu)
        started = await hv.launch(machine, {})
        await hv.resume(machine.key)
        await asyncio.wait_for(hv.wait_console(machine.key, UP), 60)
        return started.pid


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    root = Path(tempfile.mkdtemp(prefix="labd-a-"))
    root.chmod(0o711)
    host = Host(root)
    try:
        yield host
    finally:
        hv = host.hypervisor()
        for found in await hv.scan():
            await hv.kill_process(found.process)
        assert not await hv.scan()
        shutil.rmtree(root)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """Write a program that is called instead of QEMU, where its jail lets it be executed."""
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="labd-test-") as folder:
        Path(folder).chmod(0o755)

        def write(text: str) -> str:
            path = Path(folder, argv.PROGRAM)
            path.write_text(text)
            path.chmod(0o755)
            return str(path)

        yield write


@pytest.fixture
def shows_svm(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text("processor: 0\nflags\t\t: fpu svm\n")
    return path


def words_of(pid: int) -> str:
    return " ".join(identity.read_argv(pid))


@pytest.mark.parametrize("kind", [Machine.PC, Machine.Q35])
async def test_kvm_runs_for_an_unprivileged_user(host: Host, kind: Machine) -> None:
    before = DEVICE.stat()
    hv = host.hypervisor()
    choice = await hv.accel(Accel.KVM)
    assert choice.kvm
    pid = await host.up(hv, kind, choice.cpu)
    links = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert any("kvm-vm" in link for link in links)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert facts["Uid"] == [str(machine_spec(host.root).uid)] * 4
    assert int(facts["CapEff"][0], 16) == 0
    after = DEVICE.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    await hv.close()


async def test_the_probe_finds_a_cpu_that_works(host: Host) -> None:
    probe = await host.hypervisor().probe_kvm()
    assert probe.problem == ""
    assert probe.cpu == (await host.hypervisor().accel(Accel.KVM)).cpu
    assert [trial.cpu for trial in probe.trials] == list(CpuSetting)[: len(probe.trials)]


async def test_a_cpu_that_kvm_refuses_is_not_taken(host: Host, stand_in: StandIn) -> None:
    hv = host.hypervisor(stand_in(OF_AMD))
    choice = await hv.accel(Accel.KVM)
    assert choice.cpu is CpuSetting.NO_ARCH_CAPABILITIES
    assert REFUSED in choice.note
    assert "SIGABRT" in choice.note
    assert await hv.accel(Accel.KVM) is choice
    pid = await host.up(hv, Machine.Q35, choice.cpu)
    assert "-cpu host,migratable=on,arch-capabilities=off" in words_of(pid)
    assert await hv.query("k1") is RunState.RUNNING
    await hv.close()


async def test_auto_takes_the_cpu_that_works(
    host: Host, stand_in: StandIn, shows_svm: Path
) -> None:
    choice = await Accelerator(host.root, stand_in(OF_AMD), shows_svm).choose(Accel.AUTO)
    assert (choice.kvm, choice.cpu) == (True, CpuSetting.NO_ARCH_CAPABILITIES)
    assert choice.warning == ""


async def test_a_cpu_that_dies_is_refused_by_name_where_no_other_will_do(
    host: Host, stand_in: StandIn
) -> None:
    hv = host.hypervisor(stand_in(OF_AMD))
    with pytest.raises(AcceleratorFailed, match=rf"-cpu host,migratable=on here: .*{REFUSED}; "):
        await hv.accel(Accel.KVM, CpuSetting.HOST)
    for cpu in (CpuSetting.NO_ARCH_CAPABILITIES, CpuSetting.KVM64):
        assert (await hv.accel(Accel.KVM, cpu)).cpu is cpu


async def test_a_kvm_that_dies_with_every_cpu_is_told(
    host: Host, stand_in: StandIn, shows_svm: Path
) -> None:
    program = stand_in(WITHOUT_KVM)
    accelerator = Accelerator(host.root, program, shows_svm)
    with pytest.raises(AcceleratorFailed, match=rf"{REFUSED}; set accel: tcg") as caught:
        await accelerator.choose(Accel.KVM)
    assert caught.value.code == "accelerator_failed"
    assert "\n" not in caught.value.message
    choice = await accelerator.choose(Accel.AUTO)
    assert not choice.kvm
    assert REFUSED in choice.warning
    # A failure is not remembered against the one who asks for KVM.
    stand_in(OF_AMD)
    assert (await accelerator.choose(Accel.KVM)).cpu is CpuSetting.NO_ARCH_CAPABILITIES


async def test_kvm_that_fails_at_a_start_is_told_and_probed_anew(
    host: Host, stand_in: StandIn
) -> None:
    """As when the host of a virtual machine becomes another one while labd runs."""
    hv = host.hypervisor(stand_in(f"#!/bin/sh\n{_REAL}"))
    before = await hv.accel(Accel.KVM)
    stand_in(OF_AMD if before.cpu is CpuSetting.HOST else WITHOUT_KVM)
    with pytest.raises(AcceleratorFailed, match=f"start of test/k1 .*{REFUSED}; .*accel: tcg"):
        await host.up(hv, Machine.Q35, before.cpu)
    assert not await hv.scan()
    if before.cpu is CpuSetting.HOST:
        assert (await hv.accel(Accel.KVM)).cpu is CpuSetting.NO_ARCH_CAPABILITIES


async def test_a_probe_that_hangs_ends_in_time_and_says_nothing_about_the_cpu(
    host: Host, stand_in: StandIn, shows_svm: Path
) -> None:
    program = stand_in(HANGS)
    accelerator = Accelerator(host.root, program, shows_svm)
    async with asyncio.timeout(20 * PROBE_TIMEOUT):
        probe = await accelerator.probe()
    assert (len(probe.trials), probe.cpu, probe.killed) == (1, None, True)
    assert f"did not end within {PROBE_TIMEOUT:g} s" in probe.problem
    assert not (await accelerator.choose(Accel.AUTO)).kvm
    # Whoever asks for KVM has it: the host may only have been busy.
    assert (await accelerator.choose(Accel.KVM)).cpu is CpuSetting.HOST


async def test_auto_is_remembered_and_explained(host: Host) -> None:
    hv = host.hypervisor()
    choice = await hv.accel(Accel.AUTO)
    if not {"vmx", "svm"} & set(CPUINFO.read_text().split()):
        assert not choice.kvm
        assert "neither vmx nor svm" in choice.warning
    else:
        assert choice.kvm or choice.warning
    assert await hv.accel(Accel.AUTO) is choice
