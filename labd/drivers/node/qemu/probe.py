"""A guest of five bytes that shows whether KVM runs a machine, and with which CPU.

`/dev/kvm` opening is no proof: there are hosts whose KVM hangs, and others where QEMU aborts over a
feature that KVM offers and then refuses. What works is therefore found by starting QEMU, with one
`CpuSetting` after another.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from labd.drivers.node.qemu import argv
from labd.host.commands import run
from labd.host.jail import Jail
from labd.model.errors import CommandFailed
from labd.model.machine import CpuSetting

PROBE_TIMEOUT: Final = 3.0  # seconds for one setting
_OF_KVM = re.compile(r"\bkvm|\bMSR\b", re.IGNORECASE)
_PROBE_VALUE = 0x2A
_PROBE_STATUS = _PROBE_VALUE << 1 | 1  # what isa-debug-exit makes of it

# mov al, 0x2a; out 0xf4, al; hlt - at the reset vector (the last 16 bytes) of a 64 KiB BIOS.
_PROBE_CODE = bytes([0xB0, _PROBE_VALUE, 0xE6, 0xF4, 0xF4])
PROBE_BIOS: Final = bytes(0xFFF0) + _PROBE_CODE.ljust(16, b"\xf4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One start of the probe guest.

    Attributes:
        cpu: The setting that was tried.
        problem: What went wrong; empty when the guest ran.
        killed: QEMU did not end by itself: KVM hangs or the host is busy, whatever the setting.
    """

    cpu: CpuSetting
    problem: str = ""
    killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the probe guest found out.

    Attributes:
        trials: In the order in which they were made; the last one may have passed.
        blocked: Why none was made; empty when there are some.
    """

    trials: tuple[Trial, ...] = ()
    blocked: str = ""

    @property
    def cpu(self) -> CpuSetting | None:
        """The best setting that works; None if none does."""
        return next((trial.cpu for trial in self.trials if not trial.problem), None)

    @property
    def killed(self) -> bool:
        """The last trial says nothing about its setting: QEMU did not end by itself."""
        return bool(self.trials) and self.trials[-1].killed

    @property
    def problem(self) -> str:
        """Why KVM runs no machine here; empty when it does."""
        if self.blocked or self.cpu is not None:
            return self.blocked
        tried = dict.fromkeys(trial.problem for trial in self.trials)
        return f"the probe guest failed under KVM: {', then '.join(tried)}"

    @property
    def note(self) -> str:
        """Why machines do not get `CpuSetting.HOST`; empty when they do, or get no KVM."""
        if self.cpu is None or not self.trials[0].problem:
            return ""
        return f"with {self.trials[0].cpu} it does not: {self.trials[0].problem}"


async def try_cpu(program: str, cpu: CpuSetting, jail: Jail) -> Trial:
    """Start the probe guest once, for at most `PROBE_TIMEOUT` seconds.

    Args:
        program: The QEMU to start.
        cpu: The setting.
        jail: As a machine with KVM has it.
    """
    with ExitStack() as stack:
        bios = os.memfd_create("labd-probe")
        stack.callback(os.close, bios)
        os.write(bios, PROBE_BIOS)
        try:
            done = await run(
                _command(program, cpu, bios),
                timeout=PROBE_TIMEOUT,
                check=False,
                pass_fds=[bios],
                jail=jail,
            )
        except CommandFailed as error:
            killed = error.details.get("status") == -signal.SIGKILL
            return Trial(cpu=cpu, problem=error.message, killed=killed)
    if done.status == _PROBE_STATUS:
        return Trial(cpu=cpu)
    said = done.stderr.decode(errors="replace")
    problem = f"QEMU {ending(done.status)}: {cause(said) or 'it said nothing'}"
    return Trial(cpu=cpu, problem=problem, killed=done.status == -signal.SIGKILL)


def ending(status: int) -> str:
    """Return how a process ended, such as `was ended by SIGABRT`, from its exit status. Pure."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def is_of_kvm(status: int, said: str) -> bool:
    """True if a QEMU with KVM that ended with these words ended because of KVM. Pure."""
    by_itself = status > 0 or status == -signal.SIGABRT
    return by_itself and _OF_KVM.search(said) is not None


def cause(said: str) -> str:
    """Return the line of QEMU's stderr that tells the cause; empty for no line. Pure.

    That is the first error: an assertion that follows says only where QEMU gave up.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line]
    return (
        (named or lines[-1:] or [""])[0].removeprefix(f"{argv.PROGRAM}: ").removeprefix("error: ")
    )


def _command(program: str, cpu: CpuSetting, bios: int) -> list[str]:
    return [
        program,
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", argv.SANDBOX),
        *("-machine", "pc,accel=kvm,usb=off", "-cpu", str(cpu), "-m", "4M"),
        *("-bios", f"/proc/self/fd/{bios}"),
        *("-device", '{"driver":"isa-debug-exit","iobase":244,"iosize":4}'),
    ]
