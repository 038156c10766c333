"""recorder: writes every event as a line of JSON, a file per lab, rotated by size.

`labs/NAME.jsonl` is the present file, `NAME.jsonl.1` the one before. Events without a lab go to
`daemon.jsonl`. An event that was written and not noted is written again after a crash: readers drop
what has a `seq` that they have seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

from labd.plugin import Client, Event, Plugin

log = logging.getLogger("recorder")
plugin = Plugin()

_BLOCK = 4096
_FIRST_WAIT, _LAST_WAIT = 1.0, 60.0  # seconds until it tries to write again


def rotate(path: Path, keep: int) -> None:
    """Make `path` free: it becomes `.1`, `.1` becomes `.2`, and what is beyond `keep` goes."""
    if keep < 1:
        path.unlink(missing_ok=True)
        return
    for number in range(keep - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def cut_half_line(path: Path) -> None:
    """Cut off half a line, which a full disk or a power loss has left: its event comes again."""
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def write(path: Path, line: str, limit: int, keep: int) -> None:
    """Append a line, into a fresh file when the old one is full.

    Raises:
        OSError: The disk is full, or the like; half the line may be there.
    """
    path.parent.mkdir(exist_ok=True)
    data = line.encode()
    if path.exists():
        cut_half_line(path)
        if path.stat().st_size + len(data) > limit:
            rotate(path, keep)
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # before the event counts as handled


@plugin.on("*")
async def told(event: Event, lab: Client) -> None:
    """Write an event."""
    del lab
    path = Path("labs") / f"{event.lab}.jsonl" if event.lab else Path("daemon.jsonl")
    line = json.dumps(dict(event.record), separators=(",", ":")) + "\n"
    limit, keep = int(str(plugin.settings["max-size"])), int(str(plugin.settings["keep"]))
    wait = _FIRST_WAIT
    while True:
        try:
            await asyncio.to_thread(write, path, line, limit, keep)
        except OSError as error:  # what was told must not be left out: it waits for the disk
            log.warning("event %d cannot be written (%s); again in %g s", event.seq, error, wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LAST_WAIT)
        else:
            return


if __name__ == "__main__":
    plugin.run()
