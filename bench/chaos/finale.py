"""The last faults of a nemesis: an inventory that was harmed behind SQLite's back.

labd comes up with all that was committed, or says what is wrong and ends; then `lab fsck --rebuild`
brings all of it back. It never harms a machine for it.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Final

from bench.chaos.check import gaps
from bench.chaos.clients import template
from bench.chaos.daemon import ChaosDaemon
from bench.chaos.history import Heard, replay
from labd.client.client import Client
from labd.model.process import ProcessId

_PAGE: Final = 4096  # bytes of SQLite
_DIES_WITHIN: Final = 30.0  # seconds


def run(target: ChaosDaemon, seed: int) -> list[str]:
    """Harm the inventory twice; return what went wrong. Nothing of it is left."""
    dice = random.Random(f"finale {seed}")
    with Client(target.path) as client:
        operation = client.up("z", template("a", 1).replace("name: a", "name: z"))
        Client.check_operation(client.wait_operation(operation["id"], 120))
    problems = _torn(target, dice) + _flipped(target, dice)
    with Client(target.path) as client:
        problems += [f"finale: fsck: {found['text']}" for found in client.differences()]
        operation = client.act("destroy", "z", force=True)
        Client.check_operation(client.wait_operation(operation["id"], 120))
    return problems + [f"finale: {leak}" for leak in target.daemon.leaks()]


def _torn(target: ChaosDaemon, dice: random.Random) -> list[str]:
    """Cut the end of the write-ahead log in the middle of a frame, as a lost write would."""
    with Client(target.path) as client:
        before = replay(client)
    target.kill()
    file = target.daemon.root / "lib" / "labd.db"
    log = file.with_name("labd.db-wal")
    size = log.stat().st_size if log.exists() else 0
    cut = min(size, dice.randrange(1, 3 * _PAGE))
    if size:
        with log.open("r+b") as torn:
            torn.truncate(size - cut)
    machines = target.qemus()
    problems = _try(target, file)
    if not _ended(target):
        target.kill()
    problems += _compare(target, before, machines)
    return [f"torn log ({cut} of {size} bytes): {problem}" for problem in problems]


def _flipped(target: ChaosDaemon, dice: random.Random) -> list[str]:
    """Flip bytes of the database: labd refuses it by name, and makes it anew without a loss."""
    with Client(target.path) as client:
        before = replay(client)
    target.daemon.stop()
    machines = target.qemus()
    file = target.daemon.root / "lib" / "labd.db"
    whole = file.read_bytes()
    harmed = bytearray(whole)
    page = dice.randrange(1, len(whole) // _PAGE) * _PAGE
    for at in range(page, page + 64):
        harmed[at] ^= 0xFF
    file.write_bytes(harmed)
    problems = _try(target, file)
    if not _ended(target):  # what was harmed is in use by nobody
        target.kill()
        for beside in file.parent.glob("labd.db-*"):
            beside.unlink()
        shutil.rmtree(file.with_name("labd.db.copies"))  # they go on from what was harmed
        file.write_bytes(whole)
    problems += _compare(target, before, machines)
    return [f"flipped bytes of page {page // _PAGE}: {problem}" for problem in problems]


def _ended(target: ChaosDaemon) -> bool:
    assert target.daemon.process is not None
    return target.daemon.process.poll() is not None


def _compare(target: ChaosDaemon, before: Heard, machines: list[ProcessId]) -> list[str]:
    """Have the inventory made anew if it needs to be, and a daemon; tell what was lost."""
    rebuilt = target.daemon.run("fsck", "--rebuild")
    if rebuilt.returncode != 0:
        return [f"it cannot be made anew: {rebuilt.stderr[-500:]}"]
    problems = [] if target.qemus() == machines else ["a machine was ended"]
    target.start()
    with Client(target.path) as client:
        events = replay(client)
        problems += [found["text"] for found in client.differences()]
    problems += gaps(events)
    if events[: len(before)] != before:
        problems.append("an event was lost or changed")
    if target.qemus() != machines:
        problems.append("a machine was not taken over")
    return problems


def _try(target: ChaosDaemon, file: Path) -> list[str]:
    """Start a daemon on a harmed database; it answers, or ends and says why."""
    said = target.daemon.log.stat().st_size
    target.daemon.launch()
    process = target.daemon.process
    assert process is not None
    end = time.monotonic() + _DIES_WITHIN
    while process.poll() is None and not target.answers():
        if time.monotonic() > end:
            return ["labd neither answers nor ends"]
        time.sleep(0.1)
    if process.poll() is None:
        return []
    text = target.daemon.log.read_bytes()[said:].decode(errors="replace")
    wrong = [] if str(file) in text else [f"labd ends without naming the inventory: {text[-500:]}"]
    return wrong + ([f"labd ends with a traceback: {text[-800:]}"] if "Traceback" in text else [])
