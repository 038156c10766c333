"""1,000 events a second for a minute: do they all come, in order, and does memory stay bounded?"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.result import Result
from labd.events.mqtt import BrokerAddress, connect

RATE, SECONDS = 1000, 60.0
_WARM_UP = 6_000  # events; what is filled once, such as the last 4,096 events, is no growth
_PATIENCE = 300.0  # seconds for all to come
_ROOT = Path(__file__).resolve().parent.parent


def run(sizes: list[int], repeat: int) -> Iterator[Result]:
    """Give `burst_events_per_second` (baseline: as asked for) and `burst_rss_growth_mib`."""
    del sizes, repeat
    with _source() as source:
        took, grown = asyncio.run(_listen(source))
    total = int(RATE * SECONDS)
    yield Result(
        name="burst_events_per_second",
        n=total,
        unit="1/s",
        labd=total / took,
        baseline=RATE,
        min_ratio=0.95,
    )
    yield Result(name="burst_rss_growth_mib", n=total, unit="MiB", labd=grown, max_value=15)


@contextmanager
def _source() -> Iterator[subprocess.Popen[str]]:
    folder = Path(tempfile.mkdtemp(prefix="labd-burst-"))
    folder.chmod(0o755)
    seconds = SECONDS + _WARM_UP / RATE
    source = subprocess.Popen(
        [sys.executable, "-m", "bench.burst_source", folder, str(RATE), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        yield source
        source.communicate(timeout=60)
    finally:
        source.kill()
        source.wait()
        shutil.rmtree(folder)


async def _listen(source: subprocess.Popen[str]) -> tuple[float, float]:
    """Hear all events; return within how many seconds they came, and by how many MiB it grew.

    Raises:
        AssertionError: One is missing, came twice or out of order.
    """
    assert source.stdin is not None
    assert source.stdout is not None
    host, name, port, password = json.loads(source.stdout.readline())
    address = BrokerAddress(host=name, port=port, username="reader", password=password)
    seq, before, began, highest = 0, 0.0, 0.0, 0.0
    last = _WARM_UP + int(RATE * SECONDS)
    async with connect(address, identifier="burst") as client, asyncio.timeout(_PATIENCE):
        await client.subscribe(f"labd/v1/{host}/lab/+/events", qos=1)
        print(file=source.stdin, flush=True)
        async for message in client.messages:
            heard = json.loads(bytes(message.payload))["seq"]
            assert heard == seq + 1, f"event {heard} came after {seq}"
            seq = heard
            if seq == _WARM_UP:
                before, began = rss_mib(source.pid), time.monotonic()
            elif seq % 1000 == 0:
                highest = max(highest, rss_mib(source.pid))
            if seq == last:
                break
    return time.monotonic() - began, highest - before


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
