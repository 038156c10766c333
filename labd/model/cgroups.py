"""Control groups of machines: what each is bounded by."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.process import ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A machine that has a group of its own, in that of its lab.

    Attributes:
        lab: Key of the lab.
        key: Of the machine.
        process: Its QEMU.
        memory: Bytes of the guest.
        vcpus: Of the guest.
        kvm: It runs by KVM; software emulation keeps what it has translated, besides.
    """

    lab: str
    key: str
    process: ProcessId
    memory: int
    vcpus: int
    kvm: bool
