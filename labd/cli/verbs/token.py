"""`lab token` and `lab whoami`."""

from __future__ import annotations

import click

from labd.cli.session import Family, Session, look_up, seconds, verb
from labd.cli.text import table

_ROLES = ("administrator", "instructor", "student")


@click.group("token", cls=Family)
def token() -> None:
    """Let people in: instructors with labs of their own, students into one lab."""


@verb("create")
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What it may do.")
@click.option("--lab", "labs", multiple=True, metavar="LAB", help="Of a student.")
@click.option("--expires", metavar="TIME", help="After this long, such as 8h. [default: never]")
def create(
    session: Session, name: str, role: str, labs: tuple[str, ...], expires: str | None
) -> None:
    """Make a token called NAME and print it: it is shown this once.

    Labs, classes and checkpoints that are made with the token of an instructor belong to NAME.
    """
    length = None if expires is None else seconds(expires)
    made = session.client.tokens.create(name, role, labs, length)
    if session.json:
        session.emit(made)
        return
    session.say(made["token"])
    until = f" until {made['expires']}" if made["expires"] else ""
    session.note(f"token {name} of role {role} is good{until}; it is not shown again")


@verb("ls")
def ls(session: Session) -> None:
    """List tokens; of none the token itself."""
    found = session.client.tokens.all()
    if session.json:
        session.emit({"tokens": found})
        return
    if not found:
        session.note("no tokens; `lab token create NAME --role ROLE` makes one")
        return
    rows = [
        (item["name"], item["role"], ", ".join(item["labs"]) or "-", item["expires"] or "never")
        for item in found
    ]
    session.say(table(("TOKEN", "ROLE", "LABS", "EXPIRES"), rows))


@verb("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def revoke(session: Session, names: tuple[str, ...]) -> None:
    """Make tokens void; what is open by them is closed within seconds."""
    wanted = look_up("token", names, session.client.tokens.all)
    for name in wanted:
        session.client.tokens.revoke(name)
        if not session.json:
            session.say(f"token {name} is void")
    if session.json:
        session.emit({"revoked": wanted})


@verb("whoami")
def whoami(session: Session) -> None:
    """Tell who you are for labd: name, role, and the labs of your token."""
    found = session.client.tokens.caller()
    if session.json:
        session.emit(found)
        return
    labs = f", for {', '.join(found['labs'])}" if found["labs"] else ""
    session.say(f"{found['name']}: {found['role']}{labs}")


for _command in (create, ls, revoke):
    token.add_command(_command)
