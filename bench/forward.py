"""One TCP stream to a guest: forwarded by labd, and made directly inside the lab's namespace."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench.daemon import scratch_daemon
from bench.result import Figure, Result, attempt, median
from labd.drivers.network.linux import netns
from tests.system.harness import BIN, Daemon

# busybox's nc hands each connection to a `cat` that reads it to its end.
TEMPLATE = """name: bench
networks: {lan: {subnet: 10.7.0.0/24}}
nodes:
  sink:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: 10.7.0.2/24}}
    commands: [[sh, -c, "nc -ll -p 7 -e sh -c 'cat >/dev/null' >/dev/null 2>&1 &"]]
    publish: ["0:7"]
"""
GUEST = ("10.7.0.2", 7)
_GUEST_BYTES = 96 << 20
_BARE_BYTES = 2 << 30  # without a guest it is some twenty times as fast
_CHUNK = bytes(1 << 18)

Connect = Callable[[], socket.socket]


def run(_: list[int], repeat: int) -> Iterator[Figure]:
    """Give `forward_throughput`, `publish_throughput` and `forward_ceiling`, MB/s.

    The ceiling is the same with a listener in the namespace itself in the guest's place: what the
    way through `lab forward` can carry at most.
    """
    with scratch_daemon() as daemon:
        daemon.image("tiny")
        template = daemon.root / "bench.yaml"
        template.write_text(TEMPLATE)
        daemon.lab("up", str(template))
        status = daemon.json("status", "bench")
        space = next(name for name in daemon.namespaces() if name.endswith(status["key"]))
        published = ("127.0.0.1", int(status["published"][0]["host_port"]))
        with _staying(daemon, "forward", "bench/sink", "0:7") as line:
            forwarded = ("127.0.0.1", int(line.split(" -> ")[0].rpartition(":")[2]))
            ways: dict[str, Connect] = {
                "direct": lambda: _inside(space, GUEST),
                "forward": lambda: socket.create_connection(forwarded),
                "publish": lambda: socket.create_connection(published),
            }
            speeds = _turns(ways, _GUEST_BYTES, repeat)
        for name in ("forward", "publish"):
            yield Result(
                name=f"{name}_throughput",
                n=1,
                unit="MB/s",
                labd=speeds[name],
                baseline=speeds["direct"],
                min_ratio=0.7 if name == "forward" else None,
            )
        ceiling = partial(_ceiling, daemon, space, repeat)
        yield from attempt(lambda: [ceiling()], ["forward_ceiling"], 1, lambda: None)


def _ceiling(daemon: Daemon, space: str, repeat: int) -> Result:
    """Measure with a sink in the namespace, at the address that labd has there."""
    address = subprocess.run(
        ["ip", "-n", space, "-4", "-o", "addr", "show", "dev", "br-lan"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[3]
    place = (address.partition("/")[0], 0)
    listener = asyncio.run(netns.inside(space, lambda: socket.create_server(place)))
    host, port = listener.getsockname()
    threading.Thread(target=_sink, args=(listener,), daemon=True).start()
    with _staying(daemon, "proxy", "bench", "--port", "0") as line:
        proxy = ("127.0.0.1", int(line.rpartition(":")[2]))
        ways: dict[str, Connect] = {
            "direct": lambda: _inside(space, (host, port)),
            "forward": lambda: _by_socks(proxy, host, port),
        }
        speeds = _turns(ways, _BARE_BYTES, repeat)
    listener.close()
    return Result(
        name="forward_ceiling", n=1, unit="MB/s", labd=speeds["forward"], baseline=speeds["direct"]
    )


@contextmanager
def _staying(daemon: Daemon, *args: str) -> Iterator[str]:
    """Run a verb that stays, and give the first line that it prints."""
    child = subprocess.Popen(
        [BIN / "lab", "--root", daemon.root, *args], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def _turns(ways: dict[str, Connect], size: int, repeat: int) -> dict[str, float]:
    """Measure the ways in turns; return the median speed of each, MB/s."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, connect in ways.items():
            found[name].append(_speed(connect, size))
    return {name: median(values) for name, values in found.items()}


def _speed(connect: Connect, size: int) -> float:
    """Send `size` bytes and wait until the other side has read them all and closed."""
    with connect() as line:
        began = time.monotonic()
        for _ in range(size // len(_CHUNK)):
            line.sendall(_CHUNK)
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b""
        return size / (time.monotonic() - began) / 1e6


def _inside(space: str, place: tuple[str, int]) -> socket.socket:
    """Connect from inside a namespace, as a program that was started there would."""
    return asyncio.run(netns.inside(space, lambda: socket.create_connection(place)))


def _by_socks(proxy: tuple[str, int], host: str, port: int) -> socket.socket:
    line = socket.create_connection(proxy)
    line.sendall(b"\5\1\0")
    assert line.recv(2) == b"\5\0"
    line.sendall(b"\5\1\0\1" + socket.inet_aton(host) + port.to_bytes(2, "big"))
    assert line.recv(10)[:2] == b"\5\0"
    return line


def _sink(listener: socket.socket) -> None:
    """Read each connection to its end, and close it."""
    buffer = bytearray(1 << 18)
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        with caller:
            while caller.recv_into(buffer):
                pass
