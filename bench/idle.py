"""What the daemon costs while nothing happens: CPU of one core, and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.daemon import Stream, scratch_daemon, sweep
from bench.labs import TEMPLATE
from bench.result import Figure, Result, attempt
from tests.system.harness import Daemon

SECONDS = 30.0


def run(sizes: list[int], repeat: int) -> Iterator[Figure]:
    """Give `idle_cpu_percent` (of one core, over 30 s) and `idle_rss_mib`."""
    del repeat
    with scratch_daemon() as daemon:
        daemon.image("bootsector")
        assert daemon.process is not None
        pid = daemon.process.pid
        for count in sizes:
            names = ("idle_cpu_percent", "idle_rss_mib")
            yield from attempt(
                partial(_rest, daemon, pid, count), names, count, lambda: sweep(daemon)
            )


def _rest(daemon: Daemon, pid: int, count: int) -> Iterator[Result]:
    text = TEMPLATE.format(count=count)
    with Stream(daemon) as stream:
        stream.finish(stream.ask("PUT", "/v1/labs/bench", {"text": text, "file": "b.yaml"}))
    time.sleep(3)
    before = _cpu_seconds(pid)
    time.sleep(SECONDS)
    used = _cpu_seconds(pid) - before
    yield Result(
        name="idle_cpu_percent",
        n=count,
        unit="%",
        labd=100 * used / SECONDS,
        max_value=0.5 if count == 50 else None,
    )
    yield Result(name="idle_rss_mib", n=count, unit="MiB", labd=_rss_mib(pid))
    with Stream(daemon) as stream:
        stream.finish(stream.ask("POST", "/v1/labs/bench/actions", {"action": "destroy"}))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
