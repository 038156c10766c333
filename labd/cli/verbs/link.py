"""`lab link`."""

from __future__ import annotations

import click

from labd.cli.session import Family, Session, verb
from labd.cli.text import table
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIELDS = ("rate", "delay", "jitter", "loss", "duplicate", "corrupt")


@click.group("link", cls=Family)
def link() -> None:
    """Cut, slow down and spoil the wires of a lab, and mend them."""


@verb("set")
@click.argument("lab", metavar="LAB")
@click.argument("target", metavar="LINK|NODE/NIC")
@click.option("--from", "sender", default="", metavar="NODE[/NIC]", help="Only what it sends.")
@click.option("--down/--up", "down", default=None, help="Take the carrier away, or give it back.")
@click.option("--rate", metavar="RATE", help="At most so much, such as 10mbit.")
@click.option("--delay", metavar="TIME", help="Each frame takes so much longer, such as 20ms.")
@click.option("--jitter", metavar="TIME", help="The delay varies by so much, such as 5ms.")
@click.option("--loss", metavar="PERCENT", help="Frames that are lost, such as 1%.")
@click.option("--duplicate", metavar="PERCENT", help="Frames that come twice.")
@click.option("--corrupt", metavar="PERCENT", help="Frames with a bit turned over.")
def _set(
    session: Session, lab: str, target: str, sender: str, down: bool | None, **given: str | None
) -> None:
    """Change the wires of a link, of a network, or of one NIC (which is what that NIC sends).

    What is not named stays as it is; 0 takes an impairment off. It stays over restarts of the
    nodes and of labd, until `lab link reset` or `lab destroy`.
    """
    from labd.model.impairment import parse

    fields = {name: parse(name, text) for name, text in given.items() if text is not None}
    if not fields and down is None:
        raise InputError("say what to change: --down, --up, --rate, --delay, --loss…")
    if sender and down is not None:
        raise InputError("a carrier is lost at every end: leave --from out, or name NODE/NIC")
    links = session.client.links.set(lab, target, sender=sender, down=down, **fields)
    _show_wires(session, links)


@verb("show")
@click.argument("lab", metavar="LAB")
def _show(session: Session, lab: str) -> None:
    """Show the wires of a lab: who sends, whether there is a carrier, what happens to frames."""
    _show_wires(session, session.client.links.show(lab))


@verb("reset")
@click.argument("lab", metavar="LAB")
@click.argument("target", metavar="[LINK|NODE/NIC]", default="")
def _reset(session: Session, lab: str, target: str) -> None:
    """Have wires as the template says; all of the lab without a name."""
    _show_wires(session, session.client.links.reset(lab, target))


def _show_wires(session: Session, links: list[dict[str, Any]]) -> None:
    from labd.model.impairment import describe

    if session.json:
        session.emit({"wires": links})
        return
    rows = [
        (
            wire["network"],
            f"{wire['node']}/{wire['nic']}",
            ", ".join(wire["to"][:3]) + ("…" if len(wire["to"]) > 3 else "") or "-",
            "down" if wire["down"] else "up",
            describe({name: wire[name] for name in _FIELDS}) or "-",
            "yes" if wire["changed"] else "no",
        )
        for wire in links
    ]
    session.say(table(("LINK", "FROM", "TO", "CARRIER", "IMPAIRMENT", "CHANGED"), rows))


for _command in (_set, _show, _reset):
    link.add_command(_command)
