"""What the kernel and the folders say, for those who do not believe the rows."""

from __future__ import annotations

import os
from pathlib import Path


def count_taps(pid: int) -> int:
    """Return how many tap descriptors a process holds (`iff:` in fdinfo); 0 when it is gone.

    Source: linux drivers/net/tun.c, tun_chr_show_fdinfo.
    """
    count = 0
    for entry in entries(Path(f"/proc/{pid}/fdinfo")):
        try:
            text = Path(f"/proc/{pid}/fdinfo/{entry}").read_text()
        except OSError:
            continue
        count += "\niff:" in text
    return count


def entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none when it is not there."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
