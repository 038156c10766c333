"""How long a command in a guest takes over the start of the command line itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.daemon import scratch_daemon
from bench.result import Result, median
from tests.system.harness import BIN

_TEMPLATE = "name: bench\nnodes: {a: {image: tiny, memory: 128 MiB}}\n"
_RUNS = 20


def run(_: list[int], repeat: int) -> Iterator[Result]:
    """Give `exec_true`: milliseconds of `lab exec` of `true` over those of `lab version`."""
    with scratch_daemon() as daemon:
        daemon.image("tiny")
        template = daemon.root / "bench.yaml"
        template.write_text(_TEMPLATE)
        daemon.lab("up", str(template))
        lab = [str(BIN / "lab"), "--root", str(daemon.root)]
        inside = [*lab, "exec", "-n", "bench/a", "true"]
        _once(inside)  # the agent's own first start
        pairs = [(_once(inside), _once([*lab, "version"])) for _ in range(_RUNS * repeat)]
        yield Result(
            name="exec_true",
            n=1,
            unit="ms",
            labd=median([there - own for there, own in pairs]),
            baseline=median([own for _, own in pairs]),
            max_value=60,
        )


def _once(argv: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1000
