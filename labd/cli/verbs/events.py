"""`lab events`."""

from __future__ import annotations

import json
import sys

import click

from labd.cli.session import Session, verb
from labd.cli.text import plain
from labd.model.errors import DaemonUnreachable, InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from labd.client.client import Client
    from labd.client.types import Event

# Events whose subject is the plain name of a network.
_OF_NETWORKS = {"network.up", "network.down", "link.changed"}
_WIDTH = 20  # of the longest common types


def _types(_ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    from labd.model.events import EventType

    return [kind.value for kind in EventType if kind.startswith(begun)]


@verb("events")
@click.option("--since", type=click.IntRange(0), metavar="SEQ", help="Only events after this one.")
@click.option("--follow", "-f", is_flag=True, help="Go on with events as they come.")
@click.option("--lab", metavar="LAB", help="Only events of one lab.")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    shell_complete=_types,
    help="Only a type, such as node.crashed or node.*",
)
@click.option("--audit", is_flag=True, help="Only who asked for what: --type 'audit.*'.")
def events(
    session: Session,
    since: int | None,
    follow: bool,
    lab: str | None,
    kind: str | None,
    audit: bool,
) -> None:
    """Print events, one a line; with --json, CloudEvents records as JSON Lines.

    Without --since: all that are kept, or with --follow those from now on.
    """
    if audit:
        if kind is not None:
            raise InputError("--audit is a --type of its own; give one of the two")
        kind = "audit.*"
    if kind is not None:
        _require_type(kind)
    client = session.client
    if follow:
        found: Iterator[Event] = client.follow(since, lab=lab or "", type=kind or "")
    else:
        found = _all(client, since, lab or "", kind or "")
    last: object = "SEQ"
    try:
        for event in found:
            last = event["seq"]
            sys.stdout.write((json.dumps(event) if session.json else _line(event)) + "\n")
            if follow:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return
    if follow:
        raise DaemonUnreachable(
            "labd has ended the stream; look whether it runs, and go on with "
            f"`lab events --follow --since {last}`"
        )


def _require_type(pattern: str) -> None:
    """Refuse what no event can match: whoever mistypes it would wait for ever.

    Raises:
        InputError: It is no type and matches none.
    """
    from fnmatch import fnmatchcase

    from labd.model.events import EventType
    from labd.model.names import nearest

    if not any(fnmatchcase(kind, pattern) for kind in EventType):
        near = nearest(pattern, [kind.value for kind in EventType])
        hint = f"did you mean '{near}'?" if near else "docs/events.md lists them"
        raise InputError(f"--type '{pattern[:64]}' is no type of event; {hint}")


def _all(client: Client, since: int | None, lab: str, kind: str) -> Iterator[Event]:
    after = since
    while True:
        page = client.events(after, 1000, lab=lab, type=kind)
        yield from page["events"]
        if page["next"] >= page["last"] or page["next"] == after:
            return
        after = page["next"]


def _line(event: Event) -> str:
    kind = str(event["type"]).removeprefix("io.labd.")
    data = event.get("data") or {}
    words = [f"{key}={_short(value)}" for key, value in data.items() if value not in ("", None)]
    time = str(event["time"])[11:23]
    subject = str(event.get("subject", ""))
    # Networks of two labs may have one name, so that the lab is told as it is for nodes.
    if kind in _OF_NETWORKS and event.get("lab"):
        subject = f"{event['lab']}/{subject}"
    head = f"{time} {event['seq']:>6}  {kind:<{_WIDTH}}  {subject:<20}"
    return plain(f"{head}  {' '.join(words)}".rstrip())


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = json.dumps(text) if " " in text and not text.startswith(("{", "[")) else text
    return text if len(text) <= 120 else text[:117] + "..."
