"""`lab profile`."""

from __future__ import annotations

import click

from labd.cli.session import Family, Session, verb
from labd.cli.text import size, table
from labd.model.units import parse_size


@click.group("profile", cls=Family)
def profile() -> None:
    """VM profiles: an image with CPUs, memory and disk, that nodes can name."""


@verb("ls")
def ls(session: Session) -> None:
    """List profiles."""
    found = session.client.profiles()
    if session.json:
        session.emit({"profiles": found})
        return
    if not found:
        session.note("no profiles; `lab profile add NAME --image IMAGE` makes one")
        return
    rows = [
        (p["name"], p["image"], p["vcpus"], size(p["memory"]), size(p["disk"]), p["description"])
        for p in found
    ]
    session.say(table(("PROFILE", "IMAGE", "VCPUS", "MEMORY", "DISK", "DESCRIPTION"), rows))


@verb("show")
@click.argument("name", metavar="PROFILE")
def show(session: Session, name: str) -> None:
    """Show a profile."""
    found = session.client.profile(name)
    if session.json:
        session.emit(found)
        return
    for key, value in found.items():
        text = size(value) if isinstance(value, int) and key in {"memory", "disk"} else value
        session.say(f"{key + ':':<13} {'-' if text in (None, '') else text}")


@verb("add")
@click.argument("name")
@click.option("--image", required=True, metavar="IMAGE", help="Name of an image.")
@click.option("--vcpus", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--memory", default="256 MiB", show_default=True, metavar="SIZE")
@click.option("--disk", metavar="SIZE", help="Size of the root disk; else the image's own.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True)
@click.option("--description", default="", metavar="TEXT")
def add(
    session: Session,
    name: str,
    image: str,
    vcpus: int,
    memory: str,
    disk: str | None,
    firmware: str,
    description: str,
) -> None:
    """Add a profile."""
    found = session.client.add_profile(
        name,
        image=image,
        vcpus=vcpus,
        memory=parse_size(memory),
        disk=parse_size(disk) if disk else None,
        firmware=firmware,
        description=description,
    )
    if session.json:
        session.emit(found)
    else:
        session.say(f"profile {name} is there")


@verb("rm")
@click.argument("name", metavar="PROFILE")
def rm(session: Session, name: str) -> None:
    """Remove a profile that no lab names."""
    session.client.remove_profile(name)
    if session.json:
        session.emit({"removed": name})
    else:
        session.say(f"profile {name} is removed")


for _command in (ls, show, add, rm):
    profile.add_command(_command)
