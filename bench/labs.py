"""`up` and `destroy` of N guests, labd against the bare launcher: same guests, same taps."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import bare
from bench.daemon import Stream, scratch_daemon, sweep
from bench.result import Figure, Result, attempt, median
from labd.drivers.storage.local.overlay import fresh
from labd.images.bootsector import boot_sector
from tests.system.harness import Daemon

TEMPLATE = """name: bench
networks: {{lan: {{}}}}
nodes:
  n:
    image: bootsector
    count: {count}
    machine: pc
    disk_bus: ide
    memory: 16 MiB
    accel: tcg
    nics: {{eth0: {{network: lan, model: e1000}}}}
"""


_KINDS = {"running": "up_running", "output": "up_output", "destroy": "destroy"}
_BARS = {("running", 1): 1.5, ("running", 50): 1.5, ("destroy", 50): 2.5}


def run(sizes: list[int], repeat: int) -> Iterator[Figure]:
    """Give `up_running`, `up_output` and `destroy`, seconds. The two launchers take turns."""
    with scratch_daemon() as daemon, tempfile.TemporaryDirectory(prefix="bench-") as name:
        daemon.image("bootsector")
        base = Path(name) / "base.raw"
        base.write_bytes(boot_sector())
        prototype = fresh(base.stat().st_size, str(base), "raw")
        for count in sizes:

            def both(count: int = count) -> Iterator[Result]:
                ours, theirs = [], []
                for _ in range(repeat):
                    theirs.append(asyncio.run(bare.measure(count, base, prototype)))
                    ours.append(_labd(daemon, count))
                yield from _results(count, ours, theirs)

            yield from attempt(both, _KINDS.values(), count, lambda: sweep(daemon))


def _results(count: int, ours: list[bare.Times], theirs: list[bare.Times]) -> Iterator[Result]:
    for kind, name in _KINDS.items():
        yield Result(
            name=name,
            n=count,
            unit="s",
            labd=median([getattr(times, kind) for times in ours]),
            baseline=median([getattr(times, kind) for times in theirs]),
            max_ratio=_BARS.get((kind, count)),
        )


def _labd(daemon: Daemon, count: int) -> bare.Times:
    """Take a lab of `count` guests up and down by the API; times are those of its events."""
    seen: dict[str, list[float]] = {"running": [], "ready": []}
    done = threading.Event()
    with Stream(daemon) as stream:

        def listen() -> None:
            for event in stream:
                kind = str(event["type"]).removeprefix("io.labd.node.")
                if kind in seen:
                    seen[kind].append(time.monotonic())
                if len(seen["ready"]) == count:
                    done.set()
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        began = time.monotonic()
        operation = stream.ask(
            "PUT", "/v1/labs/bench", {"text": TEMPLATE.format(count=count), "file": "bench.yaml"}
        )
        if not done.wait(300):
            raise AssertionError(f"not all guests were ready: {operation}")
        listener.join()
        stream.finish(operation)
        destroy = time.monotonic()
        stream.finish(stream.ask("POST", "/v1/labs/bench/actions", {"action": "destroy"}))
        end = time.monotonic()
    return bare.Times(max(seen["running"]) - began, max(seen["ready"]) - began, end - destroy)
