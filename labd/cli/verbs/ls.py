"""`lab ls`."""

from __future__ import annotations

import click

from labd.cli.addresses import show_addresses
from labd.cli.session import Session, verb
from labd.cli.text import age, paused, span, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import LabBrief

_FINE = {"ready", "running"}


@verb("ls")
@click.option("--addresses", is_flag=True, help="Show the addresses that nodes have, and who says.")
def ls(session: Session, addresses: bool) -> None:
    """List labs."""
    labs = session.client.labs()
    if addresses:
        show_addresses(session, [lab["name"] for lab in labs])
        return
    activity = session.client.activity.all() if labs else []
    idle = {found["lab"]: found["idle"] for found in activity}
    if session.json:
        session.emit({"labs": [{**lab, "idle": idle.get(lab["name"])} for lab in labs]})
        return
    if not labs:
        session.note("no labs; `lab up TEMPLATE` makes one")
        return
    rows = [
        (
            lab["name"],
            lab["state"],
            f"{sum(node['state'] in _FINE for node in lab['nodes'])}/{len(lab['nodes'])}",
            lab["template"],
            age(lab["created"]),
            span(idle.get(lab["name"])),
            _remark(lab),
        )
        for lab in labs
    ]
    session.say(table(("LAB", "STATE", "NODES", "TEMPLATE", "AGE", "IDLE", ""), rows))


def _remark(lab: LabBrief) -> str:
    count = paused(lab["nodes"])
    return "; ".join(filter(None, (f"{count} paused" if count else "", lab["reason"])))
