"""`lab node`."""

from __future__ import annotations

import click

from labd.cli.progress import run_operation
from labd.cli.session import Family, Session, node_ref, verb
from labd.model.errors import InputError


@click.group("node", cls=Family)
def node() -> None:
    """Add a node to a lab, or remove one; the others keep running."""


def _networks(texts: tuple[str, ...]) -> dict[str, str]:
    """Return network -> address of `NETWORK` and `NETWORK=ADDRESS/LENGTH`."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, address = text.partition("=")
        if not name or name in found:
            raise InputError(
                f"--network {text[:80]!r}: write NETWORK or NETWORK=ADDRESS/LENGTH, each once"
            )
        found[name] = address
    return found


@verb("add")
@click.argument("lab", metavar="LAB[/NAME]")
@click.argument("name", required=False)
@click.option("--image", metavar="IMAGE", help="What it runs; may be left out with --profile.")
@click.option("--profile", metavar="PROFILE", help="Says image, vcpus and memory.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NETWORK[=ADDRESS/LENGTH]",
    help="A network that it is in: eth0, eth1… in this order.",
)
@click.option("--memory", metavar="SIZE", help="Such as 512 MiB.")
@click.option("--vcpus", type=click.IntRange(1, 64))
@click.option("--machine", type=click.Choice(["pc", "q35", "microvm"]))
@click.option("--display", type=click.Choice(["none", "vnc"]))
def _add(
    session: Session,
    lab: str,
    name: str | None,
    image: str | None,
    profile: str | None,
    networks: tuple[str, ...],
    memory: str | None,
    vcpus: int | None,
    machine: str | None,
    display: str | None,
) -> None:
    """Add a node NAME to LAB, and start it if the lab runs. LAB/NAME does the same.

    It stays until it is removed, or `lab up` brings the lab back to its template.
    """
    from labd.model.units import parse_size

    if name is None:
        lab, name = node_ref(lab)
    new = name
    wanted = _networks(networks)
    size = parse_size(memory) if memory else None
    operation = run_operation(
        session,
        lab,
        lambda: session.client.edits.add_node(
            lab,
            new,
            networks=wanted,
            image=image,
            profile=profile,
            memory=size,
            vcpus=vcpus,
            machine=machine,
            display=display,
        ),
        wait=True,
    )
    if session.json:
        session.emit(operation)
    else:
        session.say(f"{lab} has node {name}")


@verb("rm")
@click.argument("ref", metavar="LAB/NODE")
def _rm(session: Session, ref: str) -> None:
    """Remove a node with its disks."""
    lab, name = node_ref(ref)
    operation = run_operation(
        session, lab, lambda: session.client.edits.remove_node(lab, name), wait=True
    )
    if session.json:
        session.emit(operation)
    else:
        session.say(f"{ref} is removed")


node.add_command(_add)
node.add_command(_rm)
