"""From QEMU's own timestamp of an event to an MQTT subscriber that has it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.daemon import Stream, scratch_daemon, sweep
from bench.labs import TEMPLATE
from bench.result import Figure, Result, attempt, percentile
from labd.events.mqtt import BrokerAddress, connect
from tests.system.harness import Daemon

RATE = 100  # events a second over all nodes
SECONDS = 10.0


def run(sizes: list[int], repeat: int) -> Iterator[Figure]:
    """Give `event_latency_p50` and `event_latency_p99`, milliseconds.

    Nodes are paused and resumed in turns over their second monitor (QMP `stop`, `cont`). STOP and
    RESUME carry the timestamp of QEMU, which labd's events hand on as `qemu_time`.
    """
    del repeat
    with scratch_daemon() as daemon:
        daemon.image("bootsector")
        for count in sizes:
            names = ("event_latency_p50", "event_latency_p99")
            yield from attempt(
                partial(_latencies, daemon, count), names, count, lambda: sweep(daemon)
            )


def _latencies(daemon: Daemon, count: int) -> Iterator[Result]:
    text = TEMPLATE.format(count=count)
    with Stream(daemon) as stream:
        stream.finish(stream.ask("PUT", "/v1/labs/bench", {"text": text, "file": "b.yaml"}))
        latencies = asyncio.run(_measure(daemon))
        stream.finish(stream.ask("POST", "/v1/labs/bench/actions", {"action": "destroy"}))
    for percent in (50, 99):
        yield Result(
            name=f"event_latency_p{percent}",
            n=count,
            unit="ms",
            labd=percentile(latencies, percent),
            max_value=10.0 if percent == 99 and count == 50 else None,
        )


async def _measure(daemon: Daemon) -> list[float]:
    """Return one latency in milliseconds per event."""
    latencies: list[float] = []
    address = address_of(daemon.json("version")["daemon"]["broker"])
    async with connect(address, identifier="bench") as client:
        await client.subscribe(f"labd/v1/{daemon.host_id}/lab/bench/events", qos=1)
        sender = asyncio.create_task(_send(daemon))
        wanted = int(RATE * SECONDS)
        async with asyncio.timeout(SECONDS * 6):
            async for message in client.messages:
                event = json.loads(bytes(message.payload))
                if "qemu_time" in event["data"]:
                    latencies.append((time.time() - event["data"]["qemu_time"]) * 1000)
                if len(latencies) >= wanted:
                    break
        await sender
    return latencies


def address_of(broker: Mapping[str, Any]) -> BrokerAddress:
    """Return how people reach the broker that labd tells of."""
    return BrokerAddress(
        host=broker["host"],
        port=broker["port"],
        username=broker["username"],
        password=Path(broker["password_file"]).read_text().strip(),
    )


async def _send(daemon: Daemon) -> None:
    """Make nodes speak in turns, `RATE` times a second in all."""
    lines = []
    for node in daemon.nodes("bench").values():
        path = daemon.root / "run/n" / node["key"] / "hmp.sock"
        reader, writer = await asyncio.open_unix_connection(path)
        await reader.readline()
        writer.write(b'{"execute": "qmp_capabilities"}')
        await reader.readline()
        lines.append((reader, writer, asyncio.create_task(_drain(reader))))
    start = asyncio.get_running_loop().time()
    for index in range(int(RATE * SECONDS)):
        command = b"cont" if index // len(lines) % 2 else b"stop"
        lines[index % len(lines)][1].write(b'{"execute": "%s"}' % command)
        await asyncio.sleep(
            max(0.0, start + (index + 1) / RATE - asyncio.get_running_loop().time())
        )
    for _, writer, task in lines:
        task.cancel()
        writer.close()


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.readline():
        pass
