"""`lab plugin`."""

from __future__ import annotations

import json
import sys

import click

from labd.cli.session import Family, Session, pairs, verb
from labd.cli.text import plain, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Plugin


@click.group("plugin", cls=Family)
def plugin() -> None:
    """Plugins hear events and act: list, enable, disable, watch and write them."""


@verb("ls")
def ls(session: Session) -> None:
    """List installed plugins."""
    found = session.client.plugins()
    if session.json:
        session.emit({"plugins": found})
        return
    rows = [
        (p["name"], p["version"], p["state"], p["restarts"], p["problem"] or p["description"])
        for p in found
    ]
    session.say(table(("PLUGIN", "VERSION", "STATE", "RESTARTS", "DESCRIPTION"), rows))


@verb("enable")
@click.argument("name", metavar="PLUGIN")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting.")
@click.option("--reset", is_flag=True, help="Forget the settings of before.")
def enable(session: Session, name: str, settings: tuple[str, ...], reset: bool) -> None:
    """Keep a plugin running; settings of before are kept unless given anew.

    A VALUE for a text setting is taken as it stands, for any other one it is JSON (`5`, `true`,
    `["node.*"]`).
    """
    known = [p for p in session.client.plugins() if p["name"] == name]
    shapes = known[0]["settings_schema"].get("properties", {}) if known else {}
    given: dict[str, object] = {
        key: value if shapes.get(key, {}).get("type") == "string" else _value(value)
        for key, value in pairs(settings).items()
    }
    if not reset:
        given = {**(known[0]["settings"] if known else {}), **given}
    _told(session, session.client.set_plugin(name, enabled=True, settings=given), "is enabled")


@verb("disable")
@click.argument("name", metavar="PLUGIN")
def disable(session: Session, name: str) -> None:
    """Stop a plugin; its settings are kept."""
    known = [p for p in session.client.plugins() if p["name"] == name]
    kept = known[0]["settings"] if known else {}
    _told(session, session.client.set_plugin(name, enabled=False, settings=kept), "is disabled")


@verb("logs")
@click.argument("name", metavar="PLUGIN")
def logs(session: Session, name: str) -> None:
    """Print what a plugin said (at most 1 MiB)."""
    text = session.client.plugin_log(name)
    if session.json:
        session.emit({"plugin": name, "log": text.decode(errors="replace")})
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text)


@verb("new")
@click.argument("name")
@click.option("--dir", "folder", default=".", show_default=True, help="Where to make its folder.")
def new(session: Session, name: str, folder: str) -> None:
    """Write a plugin that runs as it is, to begin from."""
    from labd.cli.plugin_new import write

    files = write(name, folder)
    if session.json:
        session.emit({"plugin": name, "files": files})
        return
    for file in files:
        session.say(file)
    session.note(
        f"next: add {folder!r} to `dirs` in the section [plugins] of labd.toml, restart labd, and "
        f"`lab plugin enable {name}`"
    )


def _value(text: str) -> object:
    try:
        found: object = json.loads(text)
    except ValueError:
        return text
    return found


def _told(session: Session, found: Plugin, what: str) -> None:
    if session.json:
        session.emit(found)
        return
    problem = f": {plain(found['problem'])}" if found["problem"] else ""
    session.say(f"plugin {found['name']} {what}{problem}")


for _command in (ls, enable, disable, logs, new):
    plugin.add_command(_command)
