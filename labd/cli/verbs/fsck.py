"""`lab fsck`."""

from __future__ import annotations

import click

from labd.cli.session import FAILED, Session, verb
from labd.cli.text import plain
from labd.cli.without_daemon import become_labd


@verb("fsck")
@click.option("--repair", is_flag=True, help="Do what can be done about each difference.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Make a damaged inventory anew from its copy, while labd does not run (`labd rebuild`).",
)
@click.option("--force", is_flag=True, help="With --rebuild: though machines run that none knows.")
def fsck(session: Session, repair: bool, rebuild: bool, force: bool) -> None:
    """Name everything on which the kernel, the folders and the inventory do not agree.

    Labs that an operation holds are left out. Exit status 1 when a difference is left.
    """
    if force and not rebuild:
        raise click.UsageError("--force is for --rebuild: give both, or neither")
    if rebuild:
        if repair:
            raise click.UsageError(
                "--rebuild is for an inventory that is damaged, --repair for a "
                "sound one: give one of them"
            )
        become_labd(session, "rebuild", *(["--force"] if force else []))
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
