"""`lab template`."""

from __future__ import annotations

import click

from labd.cli.session import Family, Session, verb
from labd.cli.source import read_template
from labd.cli.text import table


@click.group("template", cls=Family)
def template() -> None:
    """Shipped templates, their parameters, and the schema for editors."""


@verb("ls")
def ls(session: Session) -> None:
    """List the shipped templates."""
    found = session.client.templates()
    if session.json:
        session.emit({"templates": found})
        return
    rows = [(item["name"], item["problem"] or item["description"]) for item in found]
    session.say(table(("TEMPLATE", "DESCRIPTION"), rows))


@verb("show")
@click.argument("name", metavar="TEMPLATE")
def show(session: Session, name: str) -> None:
    """Print a shipped template."""
    found = session.client.template(name)
    if session.json:
        session.emit(found)
    else:
        session.say(found["text"].rstrip("\n"))


@verb("schema")
def schema(session: Session) -> None:
    """Print the JSON Schema of lab templates."""
    session.emit(session.client.template_schema())


@verb("parameters")
@click.argument("source", metavar="TEMPLATE")
def parameters(session: Session, source: str) -> None:
    """List the parameters that a template takes by --set."""
    text, file = read_template(session, source)
    found = session.client.template_parameters(text, file)
    if session.json:
        session.emit({"parameters": found})
        return
    if not found:
        session.note(f"{file} takes no parameters")
        return
    rows = [
        (
            item.get("name", ""),
            item.get("type", ""),
            "-" if item.get("default") is None else item["default"],
            item.get("description", ""),
        )
        for item in found
    ]
    session.say(table(("PARAMETER", "TYPE", "DEFAULT", "DESCRIPTION"), rows))


for _command in (ls, show, schema, parameters):
    template.add_command(_command)
