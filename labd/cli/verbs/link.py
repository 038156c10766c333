"""`lab link`."""

from __future__ import annotations

from typing import TypeVar

import click

from labd.cli.session import Family, Session, verb
from labd.cli.text import table
from labd.model.errors import InputError
from labd.model.impairment import DECLARED, NAMES, describe, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def _impairment_options(command: _Command) -> _Command:
    """Give a command an option for each impairment."""
    for item in reversed(DECLARED):
        command = click.option(
            f"--{item.name}",
            metavar=item.quantity.metavar,
            help=f"{item.help}, such as {item.example}.",
        )(command)
    return command


@click.group("link", cls=Family)
def link() -> None:
    """Cut, slow down and spoil the links of a lab, and mend them."""


@verb("set")
@click.argument("lab", metavar="LAB")
@click.argument("target", metavar="LINK|NODE/NIC")
@click.option("--from", "sender", default="", metavar="NODE[/NIC]", help="Only what it sends.")
@click.option("--down/--up", "down", default=None, help="Take the carrier away, or give it back.")
@_impairment_options
def _set(
    session: Session, lab: str, target: str, sender: str, down: bool | None, **given: str | None
) -> None:
    """Change the links of a link, of a network, or of one NIC (which is what that NIC sends).

    What is not named stays as it is; 0 takes an impairment off. It stays over restarts of the
    nodes and of labd, until `lab link reset` or `lab destroy`.
    """
    fields = {name: parse(name, text) for name, text in given.items() if text is not None}
    if not fields and down is None:
        raise InputError("say what to change: --down, --up, --rate, --delay, --loss…")
    if sender and down is not None:
        raise InputError("a carrier is lost at every end: leave --from out, or name NODE/NIC")
    links = session.client.links.set(lab, target, sender=sender, down=down, **fields)
    _show_links(session, links)


@verb("show")
@click.argument("lab", metavar="LAB")
def _show(session: Session, lab: str) -> None:
    """Show the links of a lab: who sends, whether there is a carrier, what happens to frames."""
    _show_links(session, session.client.links.show(lab))


@verb("reset")
@click.argument("lab", metavar="LAB")
@click.argument("target", metavar="[LINK|NODE/NIC]", default="")
def _reset(session: Session, lab: str, target: str) -> None:
    """Have links as the template says; all of the lab without a name."""
    _show_links(session, session.client.links.reset(lab, target))


def _show_links(session: Session, links: list[dict[str, Any]]) -> None:
    if session.json:
        # version 0.3 leaves out `wires`, the name that they had before
        session.emit({"links": links, "wires": links})
        return
    rows = [
        (
            item["network"],
            f"{item['node']}/{item['nic']}",
            ", ".join(item["to"][:3]) + ("…" if len(item["to"]) > 3 else "") or "-",
            "down" if item["down"] else "up",
            describe({name: item[name] for name in NAMES}) or "-",
            "yes" if item["changed"] else "no",
        )
        for item in links
    ]
    session.say(table(("LINK", "FROM", "TO", "CARRIER", "IMPAIRMENT", "CHANGED"), rows))


for _command in (_set, _show, _reset):
    link.add_command(_command)
