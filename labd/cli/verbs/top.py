"""`lab top`."""

from __future__ import annotations

import sys
import time

import click

from labd.cli.session import Session, verb
from labd.cli.text import table
from labd.model.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CLEAR = "\x1b[H\x1b[2J"
_SUMS = ("own", "shared", "memory", "vcpus", "written")


@verb("top")
@click.option("--labs", "by_lab", is_flag=True, help="A line for each lab instead of each node.")
@click.option("--once", is_flag=True, help="Print once and end; so it does into a pipe.")
@click.option(
    "-n",
    "interval",
    type=click.FloatRange(0.2, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.argument("lab", required=False, metavar="[LAB]")
def top(session: Session, by_lab: bool, once: bool, interval: float, lab: str | None) -> None:
    """Show what running nodes take: CPU, memory, disk and packets, the busiest first.

    OWN is the memory that a node shares with no other, SHARED what others may use, too: of a fork,
    the frozen memory. CPU is in per cent of one processor, WRITTEN what the disk was made to write
    since the start of QEMU. Rates are those since the last look.
    """
    before = session.client.usage(lab or "")
    try:
        while True:
            time.sleep(interval)
            now = session.client.usage(lab or "")
            found = _rates(before, now)
            before = now
            if by_lab:
                found = _by_lab(found)
            if session.json:
                session.emit({"time": now["time"], "host": now["host"], "nodes": found})
                return
            live = not once and sys.stdout.isatty()
            text = f"{_head(now['host'], found)}\n{_table(found, by_lab)}"
            sys.stdout.write((_CLEAR if live else "") + text + "\n")
            sys.stdout.flush()
            if not live:
                return
    except KeyboardInterrupt:
        return


def _rates(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes with rates a second, the busiest first; one that is new has begun at 0."""
    seconds = max(now["clock"] - before["clock"], 1e-3)
    old = {(item["lab"], item["node"]): item for item in before["nodes"]}
    found = []
    for item in now["nodes"]:
        was = old.get((item["lab"], item["node"]), {})
        # A process that was started meanwhile counts from 0 again.
        again = item["cpu"] < was.get("cpu", 0)
        rates = {
            f"{name}_rate": (item[name] - (0 if again else was.get(name, item[name]))) / seconds
            for name in ("cpu", "written", "received_packets", "sent_packets")
        }
        found.append({**item, **rates})
    return sorted(found, key=lambda item: (-item["cpu_rate"], item["lab"], item["node"]))


def _by_lab(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    labs: dict[str, dict[str, Any]] = {}
    for item in nodes:
        sums = labs.setdefault(item["lab"], {"lab": item["lab"], "nodes": 0})
        sums["nodes"] += 1
        for name, value in item.items():
            if name.endswith("_rate") or name in _SUMS:
                sums[name] = sums.get(name, 0) + value
    return sorted(labs.values(), key=lambda item: (-item["cpu_rate"], item["lab"]))


def _head(host: dict[str, Any], nodes: list[dict[str, Any]]) -> str:
    own = sum(item["own"] for item in nodes)
    cpu = sum(item["cpu_rate"] for item in nodes)
    return (
        f"{host['cpus']} CPUs, nodes use {cpu:.2f}; memory: {format_size(host['memory'])}, "
        f"{format_size(host['memory_available'])} available, nodes own {format_size(own)}; "
        f"disk: {format_size(host['disk_available'])} free"
        + (
            "\nthe host is short of memory: the newest labs are paused"
            if host["memory_low"]
            else ""
        )
    )


def _table(nodes: list[dict[str, Any]], by_lab: bool) -> str:
    head = ["LAB" if by_lab else "NODE", "NODES" if by_lab else "STATE"]
    rows = [
        (
            item["lab"] if by_lab else f"{item['lab']}/{item['node']}",
            item["nodes"] if by_lab else item["state"],
            f"{item['cpu_rate'] * 100:.1f}",
            format_size(item["own"]),
            format_size(item["shared"]),
            format_size(item["memory"]),
            format_size(item["written"]),
            f"{format_size(round(item['written_rate']))}/s",
            f"{item['received_packets_rate']:.0f}",
            f"{item['sent_packets_rate']:.0f}",
        )
        for item in nodes
    ]
    columns = [*head, "CPU%", "OWN", "SHARED", "MEMORY", "WRITTEN", "WRITES", "PKT/S IN", "OUT"]
    return table(columns, rows)
