"""How long the command line takes, whole process, against importing what it cannot do without."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from bench.daemon import scratch_daemon
from bench.result import Result, median
from tests.system.harness import BIN

_IMPORT = [sys.executable, "-c", "import click, http.client"]
_RUNS = 15


def _once(argv: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1000


def run(sizes: list[int], repeat: int) -> Iterator[Result]:
    """Give `cli_ls` and `cli_version`, milliseconds; the two are run in turns."""
    del sizes
    with scratch_daemon() as daemon:
        for name, verb, bar in (("cli_ls", "ls", 1.3), ("cli_version", "version", None)):
            lab = [str(BIN / "lab"), "--root", str(daemon.root), verb]
            pairs = [(_once(lab), _once(_IMPORT)) for _ in range(_RUNS * repeat)]
            yield Result(
                name=name,
                n=1,
                unit="ms",
                labd=median([pair[0] for pair in pairs]),
                baseline=median([pair[1] for pair in pairs]),
                max_ratio=bar,
            )
