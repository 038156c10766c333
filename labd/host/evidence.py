"""What the kernel and the folders say, for those who do not believe the rows."""

from __future__ import annotations

import os
from pathlib import Path


def taps_of(pid: int) -> list[str]:
    """Return the taps of which a process holds a descriptor (`iff:` in fdinfo), sorted.

    Source: linux drivers/net/tun.c, tun_chr_show_fdinfo.
    """
    found = []
    for entry in entries(Path(f"/proc/{pid}/fdinfo")):
        try:
            text = Path(f"/proc/{pid}/fdinfo/{entry}").read_text()
        except OSError:
            continue
        found += [
            line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("iff:")
        ]
    return sorted(found)


def entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none when it is not there."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
