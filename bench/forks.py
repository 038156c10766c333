"""Checkpoints and forks of `two-tier`, beside cold starts of the same lab."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import bareforks
from bench.daemon import Stream, scratch_daemon, sweep
from bench.result import Figure, Result, attempt, median
from tests.system.harness import TEMPLATES, Daemon

TEMPLATE = TEMPLATES / "two-tier.yaml"
ONE = """name: one
networks: {lan: {}}
nodes:
  n: {image: tiny, memory: 128 MiB, nics: {eth0: {network: lan, address: 10.0.0.1/24}}}
"""
GUESTS = ("10.10.1.1", "10.10.1.10", "10.10.2.10")
_SSH = 22  # where the tiny guest listens once it is up
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIMIT = 600.0  # seconds
# Connections tried each second, with all guests together: guests that boot are slowed down by more.
_ASKED = 300


class _Taken(NamedTuple):
    """What nodes take: PSS and files of their own, in MiB; images and checkpoints are shared."""

    nodes: int
    memory: float
    disk: float


_NOTHING = _Taken(nodes=1, memory=0.0, disk=0.0)


_COMPARED = ("fork_vs_cold", "fork_private_memory", "fork_total_memory", "fork_disk_used")


def run(sizes: list[int], repeat: int) -> Iterator[Figure]:
    """Give what `bench/run.py` names."""
    with scratch_daemon() as daemon:
        daemon.image()
        daemon.lab("up", str(TEMPLATE), "--name", "source")
        yield from attempt(
            lambda: [_pause(daemon, repeat)],
            ["checkpoint_pause"],
            1,
            lambda: _remove(daemon, "pause"),
        )
        daemon.lab("checkpoint", "save", "source", "start")
        daemon.lab("destroy", "source", "--force")
        if 1 in sizes:
            yield from attempt(
                lambda: [_pool(daemon, repeat)], ["pool_start"], 1, lambda: _cool(daemon)
            )
        # Both of one size, then the next: what ninety guests leave to the kernel slows down one.
        for count in sorted(sizes):
            names = [*(["fork_answer"] if count == 1 else []), *_COMPARED]
            measure = partial(_compare, daemon, count, repeat if count == 1 else 1)
            yield from attempt(measure, names, count, lambda: sweep(daemon))
        daemon.lab("checkpoint", "rm", "start")
        if 10 in sizes:
            yield _running(daemon, 10, repeat)


def _compare(daemon: Daemon, count: int, repeat: int) -> Iterator[Result]:
    """Fork `count` labs `repeat` times, and boot as many once."""
    times, taken = [], _NOTHING
    for _ in range(repeat):
        seconds, taken = _forks(daemon, count)
        times.append(seconds)
    if count == 1:
        yield Result(name="fork_answer", n=1, unit="s", labd=median(times), max_value=0.45)
    booted, before = _cold(daemon, count)
    yield Result(
        name="fork_vs_cold",
        n=count,
        unit="s",
        labd=median(times),
        baseline=booted,
        max_ratio=0.067 if count == 30 else None,
    )
    yield Result(
        name="fork_private_memory",
        n=count,
        unit="MiB",
        labd=taken.memory / taken.nodes,
        baseline=before.memory / before.nodes,
        max_ratio=0.35 if count == 30 else None,
    )
    for name, ours, theirs in (
        ("fork_total_memory", taken.memory, before.memory),
        ("fork_disk_used", taken.disk, before.disk),
    ):
        yield Result(name=name, n=count, unit="MiB", labd=ours, baseline=theirs)


def _remove(daemon: Daemon, checkpoint: str) -> None:
    if any(found["name"] == checkpoint for found in daemon.json("checkpoint", "ls")["checkpoints"]):
        daemon.lab("checkpoint", "rm", checkpoint)


def _cool(daemon: Daemon) -> None:
    sweep(daemon)
    if daemon.json("pool", "ls")["pools"]:
        daemon.lab("pool", "cool", "start")


def _pool(daemon: Daemon, repeat: int) -> Result:
    """Start one lab from a warm pool, beside a fork, in turns: until all guests answer."""
    warm, cold = [], []
    for _ in range(repeat):
        daemon.lab("pool", "warm", "start", "1")
        warm.append(_forks(daemon, 1)[0])
        daemon.lab("pool", "cool", "start")
        cold.append(_forks(daemon, 1)[0])
    return Result(
        name="pool_start",
        n=1,
        unit="s",
        labd=median(warm),
        baseline=median(cold),
        max_ratio=1.0,
    )


def _running(daemon: Daemon, count: int, repeat: int) -> Result:
    """Compare with the bare script: forks of one node with one NIC, until QMP says running."""
    (daemon.root / "one.yaml").write_text(ONE)
    daemon.lab("up", str(daemon.root / "one.yaml"))
    daemon.lab("checkpoint", "save", "one", "one", "--stop")
    key = daemon.json("checkpoint", "show", "one")["key"]
    daemon.lab("fork", "one", "model")
    model = daemon.pids("model")["n"]
    state = daemon.root / "lib/checkpoints" / key / "n.state"
    ours, theirs = [], []
    for _ in range(repeat):
        theirs.append(bareforks.running(model, state, count))
        ours.append(_until_running(daemon, count))
    daemon.lab("destroy", "model", "one", "--force")
    daemon.lab("checkpoint", "rm", "one")
    return Result(
        name="fork_running",
        n=count,
        unit="s",
        labd=median(ours),
        baseline=median(theirs),
        max_ratio=2.0,
    )


def _until_running(daemon: Daemon, count: int) -> float:
    names = [f"r-{index}" for index in range(1, count + 1)]
    seen: list[float] = []
    with Stream(daemon) as stream:

        def listen() -> None:
            for event in stream:
                if event["type"] == "io.labd.node.running":
                    seen.append(time.monotonic())
                    if len(seen) == count:
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        began = time.monotonic()
        asked = stream.ask("POST", "/v1/checkpoints/one/forks", {"name": "r", "count": count})
        listener.join(_LIMIT)
    with Stream(daemon) as stream:
        for operation in asked["operations"]:
            stream.finish(operation)
        _destroy(stream, names)
    return max(seen) - began


def _pause(daemon: Daemon, repeat: int) -> Result:
    found = []
    for _ in range(repeat):
        daemon.lab("checkpoint", "save", "source", "pause")
        found.append(float(daemon.json("checkpoint", "show", "pause")["pause_ms"]))
        daemon.lab("checkpoint", "rm", "pause")
    return Result(name="checkpoint_pause", n=1, unit="ms", labd=median(found), max_value=150)


def _forks(daemon: Daemon, count: int) -> tuple[float, _Taken]:
    """Fork labs; return seconds until all guests answer, and what they take."""
    names = [f"f-{index}" for index in range(1, count + 1)]
    with Stream(daemon) as stream:
        began = time.monotonic()
        asked = stream.ask("POST", "/v1/checkpoints/start/forks", {"name": "f", "count": count})
        seconds = _answered(daemon, stream, names) - began
    with Stream(daemon) as stream:  # the first one may have been closed: nothing was asked for long
        for operation in asked["operations"]:
            stream.finish(operation)
        taken = _look(daemon)
        _destroy(stream, names)
    return seconds, taken


def _cold(daemon: Daemon, count: int) -> tuple[float, _Taken]:
    """The same with labs that boot."""
    names = [f"c-{index}" for index in range(1, count + 1)]
    body = {"text": TEMPLATE.read_text(), "file": TEMPLATE.name}
    with Stream(daemon) as stream:
        began = time.monotonic()
        asked = [stream.ask("PUT", f"/v1/labs/{name}", body) for name in names]
        seconds = _answered(daemon, stream, names) - began
    with Stream(daemon) as stream:  # the first one may have been closed: nothing was asked for long
        for operation in asked:
            stream.finish(operation)
        taken = _look(daemon)
        _destroy(stream, names)
    return seconds, taken


def _destroy(stream: Stream, names: Sequence[str]) -> None:
    body = {"action": "destroy", "force": True}
    asked = [stream.ask("POST", f"/v1/labs/{name}/actions", body) for name in names]
    for operation in asked:
        stream.finish(operation)


def _answered(daemon: Daemon, stream: Stream, names: Sequence[str]) -> float:
    """Return the moment at which the last guest of these labs has accepted a connection."""
    keys = {lab["name"]: lab["key"] for lab in stream.ask("GET", "/v1/labs")["labs"]}
    spaces = [f"/run/netns/labd-{daemon.host_id}-{keys[name]}" for name in names]
    done: list[float] = []
    patience = max(0.05, len(spaces) * len(GUESTS) / _ASKED)
    workers = [
        threading.Thread(target=_ask, args=(Path(space), guest, patience, done))
        for space in spaces
        for guest in GUESTS
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(_LIMIT)
    if len(done) != len(workers):
        raise AssertionError(f"{len(done)} of {len(workers)} guests have answered")
    return max(done)


def _ask(space: Path, guest: str, patience: float, done: list[float]) -> None:
    """Enter a lab's namespace for the life of this thread; wait until a guest accepts TCP."""
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            fd = os.open(space, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(fd)
            finally:
                os.close(fd)
            break
        time.sleep(0.005)
    while not _accepts(guest, patience):
        if time.monotonic() > end:
            return
        time.sleep(0.005)
    done.append(time.monotonic())


def _enter(fd: int) -> None:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _accepts(guest: str, patience: float) -> bool:
    try:
        with socket.create_connection((guest, _SSH), timeout=patience):
            return True
    except OSError:
        return False


def _look(daemon: Daemon) -> _Taken:
    """Return what all nodes take; of shared memory each QEMU has its share (PSS)."""
    total = 0
    pids = daemon.qemus()
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    files = [path for path in (daemon.root / "lib/nodes").rglob("*") if path.is_file()]
    blocks = sum(path.stat().st_blocks for path in files)
    return _Taken(nodes=max(1, len(pids)), memory=total / 1024, disk=blocks / 2048)
