"""What `/proc` tells of a root: sockets, mounts and tap descriptors (`core.ports_traces`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from labd.host.evidence import taps_of
from labd.host.threads import quick
from labd.model.differences import Sort, Trace
from labd.model.paths import Paths

_PROC = Path("/proc")


class HostTraces:
    """Traces of one root.

    Args:
        paths: Its folders.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    async def find(self) -> Sequence[Trace]:
        """Return sockets, mounts and taps; see the port."""
        return await quick(self._find)

    def _find(self) -> list[Trace]:
        runs = self._paths.node_runs
        folders = [runs, self._paths.lab_runs, self._paths.nodes, self._paths.keys]
        return [
            *sockets((_PROC / "net/unix").read_text(), runs),
            *mounts((_PROC / "self/mountinfo").read_text(), folders),
            *_own_taps(),
        ]

    async def remove(self, trace: Trace) -> None:
        """Remove nothing: each of these goes with its holder, or is a person's."""


def sockets(text: str, runs: Path) -> Iterator[Trace]:
    """Yield the sockets of machines that can be connected to. Pure but for the files' existence.

    Args:
        text: Of /proc/net/unix: the eighth column is the path, as it was bound.
        runs: Folder of the machines' run folders.
    """
    prefix = f"{runs}/"
    seen = set()
    for line in text.splitlines():
        path = line.partition(prefix)[2]
        if not path or path in seen or not os.path.exists(f"{prefix}{path}"):
            continue
        seen.add(path)
        key = path.partition("/")[0]
        yield Trace(
            sort=Sort.SOCKET,
            name=path,
            owner=key,
            text=f"socket {path} of machine {key}, at which a process listens,",
        )


def mounts(text: str, folders: Sequence[Path]) -> Iterator[Trace]:
    """Yield what is mounted inside of a machine's or lab's folder. Pure.

    Args:
        text: Of /proc/self/mountinfo: the fifth field is the mount point; see proc(5).
        folders: Each has a folder for each lab or machine.
    """
    for line in text.splitlines():
        point = line.split()[4]
        for what in ("\\040", "\\011", "\\012", "\\134"):  # space, tab, newline, backslash
            point = point.replace(what, chr(int(what[1:], 8)))
        for folder in folders:
            if point.startswith(f"{folder}/"):
                yield Trace(
                    sort=Sort.MOUNT,
                    name=point,
                    owner="",
                    text=f"something is mounted at {point}, which labd did not do and cannot "
                    f"remove; unmount it: umount {point}",
                )


def _own_taps() -> Iterator[Trace]:
    """Yield the taps that this daemon holds: between two operations it must have none."""
    pid = os.getpid()
    for name in taps_of(pid):
        yield Trace(
            sort=Sort.TAP,
            name=name,
            owner="",
            text=f"labd itself ({pid}) still holds tap {name}; restart labd",
        )
