"""Does labd grow? 500 cycles of up, fork and destroy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

from bench.daemon import scratch_daemon
from bench.result import Result, median
from labd.client.client import Client
from tests.system.harness import Daemon, until

CYCLES = int(os.environ.get("SOAK_CYCLES", "500"))
# Before anything is counted: what is kept on purpose is full then, such as the last 1,000
# operations (four a cycle) and 4,096 events, and all code has been used.
_WARM_UP = 250
_WORKERS = 3  # labs at one time
_SAMPLES = 50  # over all cycles
_TEMPLATE = """name: {name}
networks: {{lan: {{}}}}
nodes:
  n:
    image: bootsector
    machine: pc
    disk_bus: ide
    memory: 16 MiB
    accel: tcg
    nics: {{eth0: {{network: lan, model: e1000}}}}
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon holds at a moment."""

    descriptors: int
    threads: int
    tasks: int
    rss_mib: float

    @classmethod
    def of(cls, pid: int, client: Client) -> Self:
        """Look at a daemon in which no operation runs."""
        status = Path(f"/proc/{pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        return cls(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=int(found["Threads"]),
            tasks=int(client.info()["tasks"]),
            rss_mib=int(found["VmRSS"].split()[0]) / 1024,
        )


def growth(samples: list[Sample], field: str) -> tuple[float, float]:
    """Return by how much the last tenth of the samples lies above the first, and the first."""
    tenth = max(1, len(samples) // 10)
    early = median([getattr(sample, field) for sample in samples[:tenth]])
    late = median([getattr(sample, field) for sample in samples[-tenth:]])
    return late - early, early


def run(sizes: list[int], repeat: int) -> Iterator[Result]:
    """Give `soak_rss_growth_percent` and the growth of descriptors, threads and tasks."""
    del sizes, repeat
    with scratch_daemon() as daemon:
        daemon.image("bootsector")
        socket = str(daemon.root / "run" / "api.sock")
        with Client(socket) as client:
            _finish(client, client.up("base", _TEMPLATE.format(name="base"))["id"])
            until(lambda: client.lab("base")["state"] == "running", "the source is up", 60)
            _finish(client, client.checkpoints.save("base", "frozen")["id"])
            _cycle(daemon, client, _WARM_UP, "w")
            samples = _cycle(daemon, client, CYCLES, "m")
    grown, before = growth(samples, "rss_mib")
    yield _result("soak_rss_growth_percent", "%", 100 * grown / before, 5)
    for field, bar in (("descriptors", 3), ("threads", 3), ("tasks", 3)):
        yield _result(f"soak_{field}_growth", field, growth(samples, field)[0], bar)


def _result(name: str, unit: str, value: float, bar: float) -> Result:
    return Result(name=name, n=CYCLES, unit=unit[:8], labd=value, max_value=bar)


def _cycle(daemon: Daemon, client: Client, cycles: int, mark: str) -> list[Sample]:
    """Do cycles, a few at one time, and look at the daemon now and then."""
    assert daemon.process is not None
    pid, socket = daemon.process.pid, str(daemon.root / "run" / "api.sock")
    samples: list[Sample] = []
    began = time.monotonic()
    print(f"# {'cycles':>6} {' '.join(f'{field.name:>12}' for field in fields(Sample))}")
    every = max(_WORKERS, cycles // _SAMPLES)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for done in range(0, cycles, every):
            numbers = range(done, min(done + every, cycles))
            list(pool.map(lambda number: _once(socket, f"{mark}{number}"), numbers))
            sample = Sample.of(pid, client)
            samples.append(sample)
            if len(samples) % 5 == 1:
                values = " ".join(f"{value:12.6g}" for value in astuple(sample))
                print(f"# {numbers[-1] + 1:>6} {values} {time.monotonic() - began:8.0f} s")
    return samples


def _once(socket: str, name: str) -> None:
    """Bring a lab up, fork another, and destroy both."""
    with Client(socket) as client:
        up, fork = f"u{name}", f"f{name}"
        begun = [
            client.up(up, _TEMPLATE.format(name=up)),
            *client.checkpoints.fork("frozen", fork),
        ]
        for operation in begun:
            _finish(client, operation["id"])
        for lab in (up, fork):
            _finish(client, client.act("destroy", lab, force=True)["id"])


def _finish(client: Client, id: str) -> None:
    Client.check_operation(client.wait_operation(id, 300))
