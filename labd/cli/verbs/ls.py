"""`lab ls`."""

from __future__ import annotations

from labd.cli.session import Session, verb
from labd.cli.text import age, table

_FINE = {"ready", "running"}


@verb("ls")
def ls(session: Session) -> None:
    """List labs."""
    labs = session.client.labs()
    if session.json:
        session.emit({"labs": labs})
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
            lab["reason"],
        )
        for lab in labs
    ]
    session.say(table(("LAB", "STATE", "NODES", "TEMPLATE", "AGE", ""), rows))
