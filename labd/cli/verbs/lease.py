"""`lab lease`."""

from __future__ import annotations

import click

from labd.cli.leasing import duration, lease_of, lease_text, shown
from labd.cli.session import Family, Session, seconds, verb
from labd.cli.text import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Lease


@click.group("lease", cls=Family)
def lease() -> None:
    """Say until when labs may run: then they are stopped, and later destroyed."""


def _say(session: Session, found: Lease) -> None:
    if session.json:
        session.emit(found)
    else:
        session.say(f"lab {found['lab']}: {lease_text(found)}")


@verb("set")
@click.argument("lab", metavar="LAB")
@click.argument("time", metavar="TIME")
@click.option(
    "--keep-for", metavar="TIME", help="Destroy it this long after the end. [default: 1d]"
)
@click.option(
    "--warn", metavar="TIME,...", help="Warn so long before the end. [default: 15m,5m,1m]"
)
def set_(session: Session, lab: str, time: str, keep_for: str | None, warn: str | None) -> None:
    """Let LAB run for TIME, such as 3h, or until then, such as 2026-01-31T18:00:00Z."""
    asked = lease_of(time, keep_for, warn) or {}
    _say(session, session.client.leases.set(lab, asked))


@verb("show")
@click.argument("lab", metavar="LAB")
def show(session: Session, lab: str) -> None:
    """Show the lease of LAB."""
    _say(session, session.client.leases.get(lab))


@verb("extend")
@click.argument("lab", metavar="LAB")
@click.argument("time", metavar="TIME")
def extend(session: Session, lab: str, time: str) -> None:
    """Let LAB run for TIME longer. A lease that has ended begins again; the lab stays stopped."""
    _say(session, session.client.leases.extend(lab, seconds(time)))


@verb("cancel")
@click.argument("lab", metavar="LAB")
def cancel(session: Session, lab: str) -> None:
    """Let LAB run for ever."""
    session.client.leases.cancel(lab)
    if session.json:
        session.emit({"cancelled": lab})
    else:
        session.say(f"lab {lab} has no lease any more")


@verb("ls")
def ls(session: Session) -> None:
    """List leases."""
    found = session.client.leases.all()
    if session.json:
        session.emit({"leases": found})
        return
    if not found:
        session.note("no leases; `lab lease set LAB 3h` makes one")
        return
    rows = [
        (
            item["lab"],
            duration(item["left"]) if item["stage"] == "running" else "ended",
            shown(item["ends"]),
            shown(item["destroys"]),
        )
        for item in found
    ]
    session.say(table(("LAB", "LEFT", "ENDS", "DESTROYED"), rows))


for _command in (set_, show, extend, cancel, ls):
    lease.add_command(_command)
