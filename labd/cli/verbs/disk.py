"""`lab disk` and `lab cdrom`."""

from __future__ import annotations

import click

from labd.cli.progress import run_operation
from labd.cli.session import Family, Session, node_ref, verb
from labd.cli.text import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Operation


@click.group("disk", cls=Family)
def disk() -> None:
    """List, attach and detach disks of a node, also while it runs."""


@click.group("cdrom", cls=Family)
def cdrom() -> None:
    """Insert a CD into the drive of a node, or eject it, also while it runs."""


@verb("ls")
@click.argument("ref", metavar="LAB/NODE")
def _ls(session: Session, ref: str) -> None:
    """List the drives of a node."""
    from labd.model.units import format_size

    lab, node = node_ref(ref)
    found = session.client.edits.disks(lab, node)
    if session.json:
        session.emit({"disks": found})
        return
    if not found:
        session.note(f"{ref} has no drives; `lab disk attach {ref} NAME --size SIZE` gives it one")
        return
    rows = [
        (
            item["name"],
            item["kind"],
            item["bus"],
            format_size(item["size"]) if item["size"] else "-",
            item["image"] or "-",
            "yes" if item["attached"] else "no",
        )
        for item in found
    ]
    session.say(table(("NAME", "KIND", "BUS", "SIZE", "IMAGE", "ATTACHED"), rows))


@verb("attach")
@click.argument("ref", metavar="LAB/NODE")
@click.argument("name")
@click.option("--size", required=True, metavar="SIZE", help="Such as 1 GiB or 500M.")
@click.option("--bus", type=click.Choice(["virtio", "scsi", "ide"]), help="Else the node's own.")
def _attach(session: Session, ref: str, name: str, size: str, bus: str | None) -> None:
    """Give a node one more disk, empty unless it was detached before.

    It stays until it is detached, or `lab up` brings the lab back to its template.
    """
    from labd.model.units import parse_size

    lab, node = node_ref(ref)
    amount = parse_size(size)
    operation = run_operation(
        session,
        lab,
        lambda: session.client.edits.attach_disk(lab, node, name, amount, bus),
        wait=True,
    )
    _done(session, operation, f"{ref} has disk {name}")


@verb("detach")
@click.argument("ref", metavar="LAB/NODE")
@click.argument("name")
def _detach(session: Session, ref: str, name: str) -> None:
    """Take a disk from a node; its data is kept until the node is removed."""
    lab, node = node_ref(ref)
    operation = run_operation(
        session, lab, lambda: session.client.edits.detach_disk(lab, node, name), wait=True
    )
    _done(session, operation, f"{ref} has let go of disk {name}; its data is kept")


@verb("insert")
@click.argument("ref", metavar="LAB/NODE")
@click.argument("image", metavar="IMAGE")
def _insert(session: Session, ref: str, image: str) -> None:
    """Put an ISO image into the CD-ROM drive of a node; what is in it comes out."""
    lab, node = node_ref(ref)
    operation = run_operation(
        session, lab, lambda: session.client.edits.set_cdrom(lab, node, image), wait=True
    )
    _done(session, operation, f"{ref} has {image} in its drive")


@verb("eject")
@click.argument("ref", metavar="LAB/NODE")
def _eject(session: Session, ref: str) -> None:
    """Take the CD out of the drive of a node."""
    lab, node = node_ref(ref)
    operation = run_operation(
        session, lab, lambda: session.client.edits.set_cdrom(lab, node), wait=True
    )
    _done(session, operation, f"{ref} has an empty drive")


def _done(session: Session, operation: Operation, text: str) -> None:
    if session.json:
        session.emit(operation)
    else:
        session.say(text)


for _command in (_ls, _attach, _detach):
    disk.add_command(_command)
for _command in (_insert, _eject):
    cdrom.add_command(_command)
