"""Machines that hang: how long a new daemon takes over 100 of which three do, and what `ls` costs.

Both are figures of the API, for the start of Python is no part of either promise.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.daemon import Stream, scratch_daemon
from bench.labs import TEMPLATE
from bench.result import Result, median, percentile
from tests.system.harness import Daemon, until

ADOPTED, HUNG = 100, 3
LISTED = 50
_ROUNDS, _REQUESTS = 5, 400  # of requests with, and without, a machine that hangs
_UP_WITHIN = 300.0  # seconds


def adopt(sizes: list[int], repeat: int) -> Iterator[Result]:
    """Give `adopt_seconds`: from the start of a daemon after kill -9 until it answers.

    It answers when every machine is taken over: 97 are ready, and three are known to hang.
    """
    del sizes
    with scratch_daemon() as daemon:
        daemon.image("bootsector")
        pids = _have_lab(daemon, ADOPTED)
        times = []
        for turn in range(repeat):
            chosen = [pids[(turn + at * 31) % len(pids)] for at in range(HUNG)]
            daemon.kill()
            with _stopped(chosen):
                times.append(_restart(daemon))
                _check_adopted(daemon, set(pids), set(chosen))
            until(lambda: _states(daemon) == {"ready"}, "all answer again", 60)
        yield Result(name="adopt_seconds", n=ADOPTED, unit="s", labd=median(times), max_value=10)


def ls(sizes: list[int], repeat: int) -> Iterator[Result]:
    """Give `ls_with_hung_vm`: milliseconds of the list of labs, p99; the baseline has none hung.

    Rounds with and without take turns, so that both meet the same load of the host.
    """
    del sizes, repeat
    with scratch_daemon() as daemon:
        daemon.image("bootsector")
        pids = _have_lab(daemon, LISTED)
        hung: list[float] = []
        free: list[float] = []
        for turn in range(_ROUNDS):
            free.append(percentile(_ask(daemon), 99))
            with _stopped([pids[turn]]):
                # Told by labd itself, when the machine has missed its deadline.
                until(lambda: "unresponsive" in _states(daemon), "it is known to hang", 60)
                hung.append(percentile(_ask(daemon), 99))
            until(lambda: _states(daemon) == {"ready"}, "it answers again", 60)
        yield Result(
            name="ls_with_hung_vm",
            n=LISTED,
            unit="ms",
            labd=median(hung),
            baseline=median(free),
            max_ratio=1.5,
        )


def _have_lab(daemon: Daemon, count: int) -> list[int]:
    """Bring up `count` guests; return their pids."""
    with Stream(daemon) as stream:
        body = {"text": TEMPLATE.format(count=count), "file": "bench.yaml"}
        stream.finish(stream.ask("PUT", "/v1/labs/bench", body))
    until(lambda: _states(daemon) == {"ready"}, "all are ready", _UP_WITHIN)
    return sorted(daemon.pids("bench").values())


def _states(daemon: Daemon) -> set[str]:
    with daemon.client() as client:
        return {node["state"] for lab in client.labs() for node in lab["nodes"]}


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Have processes stand still (SIGSTOP) in the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _restart(daemon: Daemon) -> float:
    """Start the daemon; return the seconds until it answers."""
    began = time.monotonic()
    daemon.start(seconds=120)
    return time.monotonic() - began


def _check_adopted(daemon: Daemon, pids: set[int], hung: set[int]) -> None:
    """Fail unless every machine lives on as the same process, and those that hang are known."""
    nodes = daemon.nodes("bench").values()
    assert {int(node["pid"]) for node in nodes} == pids, "a machine was lost"
    found = {int(node["pid"]) for node in nodes if node["state"] == "unresponsive"}
    assert found == hung, f"{found} are unresponsive, and {hung} hang"


def _ask(daemon: Daemon) -> list[float]:
    """Return milliseconds of each of many lists of labs, over one connection."""
    times = []
    with daemon.client() as client:
        for _ in range(_REQUESTS):
            began = time.perf_counter()
            client.labs()
            times.append((time.perf_counter() - began) * 1000)
    return times
