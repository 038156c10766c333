"""How an unprivileged QEMU gets at /dev/kvm."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from labd.hypervisor.accel import PROBE_BIOS, plan_access

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
