"""`lab pool`."""

from __future__ import annotations

import time

import click

from labd.cli.session import Family, Session, TimedOut, verb
from labd.cli.text import plain, size, table
from labd.model.errors import WorldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLL = 0.5  # seconds; each look reads the memory of every member
_LIMIT = 1800.0  # seconds


@click.group("pool", cls=Family)
def pool() -> None:
    """Keep forks of a checkpoint loaded and standing still, so that a start takes one."""


@verb("warm")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.argument("number", type=click.IntRange(1, 500), metavar="N")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def warm(session: Session, checkpoint: str, number: int, no_wait: bool) -> None:
    """Keep N forks of CHECKPOINT ready; asked again, the pool has this size from then on.

    `lab fork CHECKPOINT NAME` and classes take one while there is one, and it is replaced.
    """
    found = session.client.pools.warm(checkpoint, number)
    end = time.monotonic() + _LIMIT
    while not no_wait and found["ready"] != number:
        if found["reason"]:
            raise WorldError(
                f"{found['ready']} of {number} forks stand ready: {plain(found['reason'])}; labd "
                "tries again by itself"
            )
        if time.monotonic() > end:
            raise TimedOut(f"the pool is not full; `lab pool show {checkpoint}` shows how it is")
        time.sleep(_POLL)
        found = session.client.pools.get(checkpoint)
    if session.json:
        session.emit(found)
    elif no_wait:
        session.say(f"{number} forks of {checkpoint} are being made ready")
    else:
        session.say(f"{number} forks of {checkpoint} stand ready ({size(found['memory'])})")


@verb("ls")
def ls(session: Session) -> None:
    """List pools."""
    found = session.client.pools.all()
    if session.json:
        session.emit({"pools": found})
        return
    if not found:
        session.note("no pools; `lab pool warm CHECKPOINT N` makes one")
        return
    rows = [
        (p["checkpoint"], p["size"], p["ready"], size(p["memory"]), plain(p["reason"]))
        for p in found
    ]
    session.say(table(("CHECKPOINT", "SIZE", "READY", "MEMORY", ""), rows))


@verb("show")
@click.argument("checkpoint", metavar="CHECKPOINT")
def show(session: Session, checkpoint: str) -> None:
    """Show the pool of CHECKPOINT and the forks in it."""
    found = session.client.pools.get(checkpoint)
    if session.json:
        session.emit(found)
        return
    session.say(
        f"{found['ready']} of {found['size']} forks of {checkpoint} stand ready, with "
        f"{size(found['memory'])} of their own"
    )
    if found["reason"]:
        session.say(f"it is not full: {plain(found['reason'])}")
    session.say(table(("FORK", "STATE", "SINCE", "PIDS"), [_row(m) for m in found["members"]]))


def _row(member: dict[str, Any]) -> tuple[str, ...]:
    pids = " ".join(f"{node}:{pid}" for node, pid in member["pids"].items())
    return member["key"], member["state"], member["created"][:19].replace("T", " "), pids or "-"


def _cool(session: Session, checkpoint: str) -> None:
    session.client.pools.cool(checkpoint)
    if session.json:
        session.emit({"cooled": checkpoint})
    else:
        session.say(f"no forks of {checkpoint} are kept ready any more")


@verb("cool")
@click.argument("checkpoint", metavar="CHECKPOINT")
def cool(session: Session, checkpoint: str) -> None:
    """End the pool of CHECKPOINT, and the forks in it. Labs that came from it stay."""
    _cool(session, checkpoint)


@verb("rm")
@click.argument("checkpoint", metavar="CHECKPOINT")
def rm(session: Session, checkpoint: str) -> None:
    """Do what `cool` does."""
    _cool(session, checkpoint)


for _command in (warm, ls, show, cool, rm):
    pool.add_command(_command)
