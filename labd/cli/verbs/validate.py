"""`lab validate`."""

from __future__ import annotations

import click

from labd.cli.session import Session, pairs, verb
from labd.cli.source import read_template


@verb("validate")
@click.argument("template")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter.")
def validate(session: Session, template: str, settings: tuple[str, ...]) -> None:
    """Check a lab template; every mistake is told with file, line and column."""
    text, file = read_template(session, template)
    found = session.client.validate(text, file, pairs(settings))
    if session.json:
        session.emit(found)
        return
    nodes, networks = len(found["nodes"]), len(found["networks"])
    session.say(f"{file}: template {found['name']} is right: {nodes} nodes, {networks} networks")
