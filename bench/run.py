"""Benchmarks: labd beside a baseline, in one run, as ratios.

    make bench                                  all of them
    make bench BENCH_ARGS="--only cli_ls"       some of them

Prints a table and writes `bench/out/results.json` after each figure: a list of `{name, n, unit,
labd, baseline, ratio}`, with `bar` and `ok` where there is a bar. A figure that fails has `error`
and no value, and the others go on. Figures are medians; the header says of how many runs, and how
loaded the machine was.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import adopt, burst, cli, events, forks, forward, guests, idle, labs, networks, soak
from bench.report import Report, measure
from bench.result import Failure, Figure

OUT = Path(__file__).resolve().parent / "out"
_INTERRUPTED = 128 + signal.SIGINT

# Each benchmark, and the names of the results that it gives.
Benchmark = Callable[[list[int], int], Iterable[Figure]]
BENCHMARKS: list[tuple[Benchmark, tuple[str, ...]]] = [
    (cli.run, ("cli_ls", "cli_version")),
    (labs.run, ("up_running", "up_output", "destroy")),
    (
        forks.run,
        (
            "checkpoint_pause",
            "pool_start",
            "fork_answer",
            "fork_vs_cold",
            "fork_private_memory",
            "fork_total_memory",
            "fork_disk_used",
            "fork_running",
        ),
    ),
    (events.run, ("event_latency_p50", "event_latency_p99")),
    (guests.run, ("exec_true",)),
    (forward.run, ("forward_throughput", "publish_throughput", "forward_ceiling")),
    (networks.run, ("network_apply",)),
    (adopt.adopt, ("adopt_seconds",)),
    (adopt.ls, ("ls_with_hung_vm",)),
    (
        soak.run,
        (
            "soak_rss_growth_percent",
            "soak_descriptors_growth",
            "soak_threads_growth",
            "soak_tasks_growth",
        ),
    ),
    (burst.run, ("burst_events_per_second", "burst_rss_growth_mib")),
    (idle.run, ("idle_cpu_percent", "idle_rss_mib")),
]


def _sizes(benchmark: Benchmark) -> list[int]:
    """Return how many labs or nodes a benchmark is run with; a class has thirty students."""
    return [1, 10, 30] if benchmark is forks.run else [1, 10, 50]


def main() -> int:
    """Run what was asked for.

    Returns:
        1 if a bar was missed or a figure failed, 130 if it was interrupted, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [name for _, names in BENCHMARKS for name in names]
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument(
        "--sizes", nargs="+", type=int, metavar="N", help="default: 1 10 50; of forks 1 10 30"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure (median)")
    args = parser.parse_args()
    wanted = set(args.only or known)
    load = os.getloadavg()
    print(
        f"# {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Linux "
        f"{platform.release()}, load {load[0]:.2f} {load[1]:.2f} {load[2]:.2f} at the start, "
        f"medians of {args.repeat} runs"
    )
    print(f"{'name':<20} {'n':>4} {'unit':<8} {'labd':>10} {'baseline':>10} {'ratio':>7}  bar")
    report = Report(OUT / "results.json", keep=bool(args.only))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for benchmark, names in BENCHMARKS:
            chosen = wanted.intersection(names)
            if chosen:
                sizes = args.sizes or _sizes(benchmark)
                measure(partial(benchmark, sizes, args.repeat), names, chosen, report)
    except KeyboardInterrupt:
        print("# interrupted; what was measured is kept", flush=True)
        return _INTERRUPTED
    failed = sum(isinstance(figure, Failure) for figure in report.figures)
    missed = sum(figure.ok is False for figure in report.figures) - failed
    load = os.getloadavg()
    print(f"# load {load[0]:.2f} at the end; bars missed: {missed}; figures failed: {failed}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
