"""What is left on the host of the daemons that this process has started: at its end, nothing.

Other runs use the host at the same time, so everything is looked for by the ids and folders of the
daemons of this one. Nothing here asks labd.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Host id -> root of every daemon that was started.
STARTED: dict[str, Path] = {}


def leftovers(started: dict[str, Path]) -> list[str]:
    """Return everything on this host of the daemons with these ids and roots."""
    if not started:
        return []
    marks = [mark for host_id in started for mark in _marks(host_id)]
    words = [*marks, *(f"{root}/" for root in started.values())]
    found = [f"process {line}" for line in _processes() if any(w in line for w in words)]
    found += [
        f"namespace {name}" for name in _names(Path("/run/netns")) if any(m in name for m in marks)
    ]
    for what, argv in (
        ("link", ["ip", "-o", "-d", "link"]),
        ("table", ["nft", "list", "tables"]),
    ):
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        found += [f"{what} {line}" for line in text.splitlines() if any(m in line for m in marks)]
    for what, file in (("mount", "/proc/self/mountinfo"), ("socket", "/proc/net/unix")):
        lines = Path(file).read_text().splitlines()
        found += [f"{what} {line}" for line in lines if any(w in line for w in words)]
    found += [group for host_id in started for group in cgroups_of(host_id)]
    found += [f"namespace without a name, kept by {place}" for place in _nameless(marks)]
    found += [f"folder {root}" for root in started.values() if root.exists()]
    return found


def _marks(host_id: str) -> tuple[str, ...]:
    """Return how labd names and marks what it makes."""
    return f"labd-{host_id}-", f"labd_{host_id}_", f"labd:{host_id}", f"@{host_id}.", f"v{host_id}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _processes() -> Iterable[str]:
    for entry in _names(Path("/proc")):
        if entry.isdecimal():
            with suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                if words:  # neither a kernel thread nor a zombie
                    yield f"{entry}: {words[:300].decode(errors='replace')}"


def cgroups_of(host_id: str) -> list[str]:
    """Return the control groups of a daemon, wherever their file system is mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            groups = Path(line.split()[4]).glob(f"**/labd-{host_id}")
            found += [f"control group {group}" for group in groups]
    return found


def _nameless(marks: Iterable[str]) -> Iterable[str]:
    """Yield a place of /proc that keeps a namespace with a mark of labd's and no name."""
    device = os.stat("/proc/self/ns/net").st_dev
    seen = {os.stat("/proc/self/ns/net").st_ino}
    for name in _names(Path("/run/netns")):
        with suppress(OSError):
            seen.add(os.stat(f"/run/netns/{name}").st_ino)
    for place in _places():
        with suppress(OSError):
            status = os.stat(place)
            if status.st_dev != device or status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            done = subprocess.run(
                ["nsenter", f"--net={place}", "ip", "-o", "link", "show", "lo"],
                capture_output=True,
                text=True,
                check=False,
            )
            if any(f"alias {mark}" in done.stdout.replace("\\", " ") for mark in marks):
                yield place


def _places() -> Iterable[str]:
    for entry in _names(Path("/proc")):
        if entry.isdecimal():
            yield f"/proc/{entry}/ns/net"
            for fd in _names(Path(f"/proc/{entry}/fd")):
                with suppress(OSError):
                    target = os.readlink(f"/proc/{entry}/fd/{fd}")
                    if target == "/" or target.startswith("net:"):
                        yield f"/proc/{entry}/fd/{fd}"
