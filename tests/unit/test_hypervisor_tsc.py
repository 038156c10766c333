"""The frequency of the time-stamp counter, from what hosts say."""

from __future__ import annotations

import pytest

from labd.drivers.node.qemu.tsc import host_khz, parse

VM = "model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz\ncpu MHz\t\t: 2599.998\n"
LAPTOP = "model name\t: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz\ncpu MHz\t\t: 800.123\n"


@pytest.mark.parametrize(
    ("cpuinfo", "base", "scales", "khz"),
    [
        (VM, "", False, 2_599_998),
        (LAPTOP, "1992000\n", True, 1_992_000),
        (LAPTOP, "", True, 1_800_000),
        ("model name\t: AMD EPYC\ncpu MHz\t\t: 3000.000\n", "", True, 0),
        ("", "", False, 0),
    ],
)
def test_parse(cpuinfo: str, base: str, scales: bool, khz: int) -> None:
    assert parse(cpuinfo, base, scales=scales) == khz


def test_of_this_host() -> None:
    assert host_khz() == 0 or 100_000 < host_khz() < 10_000_000
