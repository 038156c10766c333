"""What a plugin leaves running: found by its user id and its environment or folder, and ended.

A plugin may start processes of its own (a shell with its pipeline). They do not end with it, nor
with a daemon that was killed, so they are looked for after each end and before each start. The user
id alone would do if no two daemons were ever configured with the same ones; so what has neither the
plugin's environment nor works in its folder is left alone.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from labd.host import identity
from labd.model.process import ProcessId
from labd.plugin.files import ENV_STATE

_ROUNDS, _PAUSE = 50, 0.02  # a process may fork while it is looked for
_UIDS = re.compile(rb"^Uid:\t(\d+)\t", re.MULTILINE)


def _find(uid: int, folder: Path) -> list[ProcessId]:
    """Return the processes of a plugin: of its user, and with its folder around them."""
    marker = f"{ENV_STATE}={folder}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        process = identity.identify(int(entry.name))
        try:
            # Not the owner of the folder in /proc: that is root for who has changed its user.
            uids = _UIDS.search(Path(entry.path, "status").read_bytes())
            if process is None or uids is None or int(uids[1]) != uid:
                continue
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
            works_in = Path(os.readlink(f"{entry.path}/cwd"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if marker in environment or works_in.is_relative_to(folder):
            found.append(process)
    return found


def end_leftovers(uid: int, folder: Path) -> int:
    """End what is left of a plugin with SIGKILL; blocks for some milliseconds.

    Returns:
        How many processes there were.
    """
    seen: set[ProcessId] = set()
    for _ in range(_ROUNDS):
        left = _find(uid, folder)
        if not left:
            break
        seen.update(left)
        for process in left:
            identity.kill(process, signal.SIGKILL)
        time.sleep(_PAUSE)
    return len(seen)
