"""`lab fsck`."""

from __future__ import annotations

import click

from labd.cli.session import FAILED, Session, verb
from labd.cli.text import plain


@verb("fsck")
@click.option("--repair", is_flag=True, help="Do what can be done about each difference.")
def fsck(session: Session, repair: bool) -> None:
    """Name everything on which the kernel, the folders and the inventory do not agree.

    Labs that an operation holds are left out. Exit status 1 when a difference is left.
    """
    found = session.client.differences(repair=repair)
    if session.json:
        session.emit({"differences": found})
    for item in [] if session.json else found:
        if item["repaired"]:
            tail = f"; repaired: {item['remedy']}"
        elif item["remedy"]:
            tail = "" if repair else f"; `lab fsck --repair` would {item['remedy']}"
        else:
            tail = ""
        session.say(f"{item['kind']}: {plain(item['text'])}{tail}")
    if not found:
        session.note("no differences")
    if any(not item["repaired"] for item in found):
        click.get_current_context().exit(FAILED)
