"""The memory of the host: the port, by the real one and the fake one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labd.core.ports import HostMemory
from labd.host.spawn import Child, spawn
from labd.host.usage import ProcMemory, stalled
from labd.model.process import ProcessId
from tests.fakes.usage import FakeMemory

Score = Callable[[ProcessId], int]


@pytest.fixture(params=["fake", "real"])
def memory(request: pytest.FixtureRequest) -> tuple[HostMemory, Score]:
    """Return the port, and what the kernel was told of a process."""
    if request.param == "real":
        return ProcMemory(), lambda it: int(Path(f"/proc/{it.pid}/oom_score_adj").read_text())
    fake = FakeMemory()
    return fake, lambda it: fake.scores.get(it, own_score())


def own_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    made = await spawn(["sleep", "60"])
    yield made
    await made.stop(0)


async def test_there_is_memory(memory: tuple[HostMemory, Score]) -> None:
    reading = await memory[0].read()
    assert 0 < reading.available <= reading.total
    assert 0 <= reading.stalled <= 100


async def test_who_is_killed_first(memory: tuple[HostMemory, Score], child: Child) -> None:
    port, score = memory
    await port.prefer({child.process: 700})
    assert score(child.process) == 700
    # Another process with the same pid is none of ours, and one that has ended is no error.
    other = replace(child.process, start_time_ticks=1)
    await port.prefer({other: 900})
    assert score(child.process) == 700
    await child.stop(0)
    await port.prefer({child.process: 800})


def test_stalls_as_the_kernel_tells_them(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    assert stalled(path) == 0
    path.write_text(
        "some avg10=12.00 avg60=1.00 avg300=0.00 total=1\n"
        "full avg10=7.25 avg60=1.00 avg300=0.00 total=1\n"
    )
    assert stalled(path) == 7.25
    path.write_text("something else\n")
    assert stalled(path) == 0
