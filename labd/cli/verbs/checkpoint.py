"""`lab checkpoint` and `lab fork`."""

from __future__ import annotations

import os
import stat
import sys

import click

from labd.cli.progress import run_operation
from labd.cli.session import Family, Session, look_up, pairs, verb
from labd.cli.text import size, table
from labd.cli.writing import writing
from labd.client.client import Client
from labd.model.errors import InputError, InUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Operation


@click.group("checkpoint", cls=Family)
def checkpoint() -> None:
    """Freeze whole labs, and take them back."""


@verb("save")
@click.argument("lab")
@click.argument("name")
@click.option(
    "--live", "mode", flag_value="live", default="live", help="The lab goes on (default)."
)
@click.option("--stop", "mode", flag_value="stop", help="Stop the lab when it is saved.")
@click.option("-m", "--message", default="", metavar="TEXT", help="What it is, for people.")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def save(session: Session, lab: str, name: str, mode: str, message: str, no_wait: bool) -> None:
    """Save LAB as checkpoint NAME: memory, devices and disks of all nodes at one moment."""

    def begin() -> Operation:
        return session.client.checkpoints.save(lab, name, mode=mode, message=message)

    operation = run_operation(session, lab, begin, wait=not no_wait)
    if session.json:
        session.emit(operation if no_wait else session.client.checkpoints.get(name))
    elif no_wait:
        session.say(f"{name}: saving has begun ({operation['id']})")
    else:
        found = session.client.checkpoints.get(name)
        stood = f"; its nodes stood still for {found['pause_ms']:.0f} ms" if mode == "live" else ""
        session.say(f"{lab} is saved as {name} ({size(found['size'])}){stood}")


@verb("ls")
def ls(session: Session) -> None:
    """List checkpoints."""
    found = session.client.checkpoints.all()
    if session.json:
        session.emit({"checkpoints": found})
        return
    if not found:
        session.note("no checkpoints; `lab checkpoint save LAB NAME` makes one")
        return
    rows = [
        (
            c["name"],
            c["lab"],
            len(c["nodes"]),
            size(c["size"]),
            len(c["labs"]),
            c["created"][:19].replace("T", " "),
            c["message"],
        )
        for c in found
    ]
    session.say(table(("CHECKPOINT", "LAB", "NODES", "SIZE", "FORKS", "SAVED", "MESSAGE"), rows))


@verb("show")
@click.argument("name", metavar="CHECKPOINT")
def show(session: Session, name: str) -> None:
    """Show a checkpoint."""
    found = session.client.checkpoints.get(name)
    if session.json:
        session.emit(found)
        return
    for key in ("name", "lab", "template", "message", "created", "qemu", "cpu"):
        session.say(f"{key + ':':<10} {found[key] or '-'}")
    session.say(f"{'size:':<10} {size(found['size'])}, {size(found['loaded'])} ready in memory")
    session.say(f"{'pause:':<10} {found['pause_ms']:g} ms, spread {found['spread_ms']:g} ms")
    session.say(f"{'labs:':<10} {', '.join(found['labs']) or '-'}")
    rows = [
        (
            n["name"],
            n["machine"],
            n["accel"],
            size(n["memory"]),
            size(n["memory_used"]),
            n["layers"],
        )
        for n in found["nodes"]
    ]
    session.say(table(("NODE", "MACHINE", "ACCEL", "MEMORY", "USED", "LAYERS"), rows))


@verb("rm")
@click.argument("names", nargs=-1, required=True, metavar="CHECKPOINT...")
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Remove checkpoints that no lab stands on."""
    wanted = look_up("checkpoint", names, session.client.checkpoints.all)
    if len(wanted) > 1:
        _require_unused(session.client, wanted)
    for name in wanted:
        session.client.checkpoints.remove(name)
        if not session.json:
            session.say(f"checkpoint {name} is removed")
    if session.json:
        session.emit({"removed": wanted})


def _require_unused(client: Client, names: list[str]) -> None:
    """Raise InUse unless all can go, before the first does; labd looks again at each.

    Raises:
        InUse: One cannot.
    """
    labs = {item["name"]: item["labs"] for item in client.checkpoints.all()}
    pools = {item["checkpoint"] for item in client.pools.all()}
    for name in names:
        if used := labs.get(name) or []:
            raise InUse(
                f"checkpoint {name} is in use by {', '.join(used[:10])}{' …' * (len(used) > 10)}; "
                f"destroy {'it' if len(used) == 1 else 'them'} first. Nothing was removed",
                labs=used,
            )
        if name in pools:
            raise InUse(
                f"checkpoint {name} is in use: forks of it are kept ready; `lab pool cool {name}` "
                "ends its pool. Nothing was removed",
                labs=[],
            )


@verb("export")
@click.argument("name", metavar="CHECKPOINT")
@click.argument("file")
def export(session: Session, name: str, file: str) -> None:
    """Write CHECKPOINT to FILE (`-`: stdout), for another host. Images do not go with it."""
    if file == "-":
        session.client.checkpoints.export(name, sys.stdout.buffer)
        return
    session.client.checkpoints.get(name)
    with writing(file, "FILE") as target:
        written = session.client.checkpoints.export(name, target)
    if session.json:
        session.emit({"checkpoint": name, "file": file, "bytes": written})
    else:
        session.say(f"{file}: checkpoint {name}, {size(written)}")


@verb("import")
@click.argument("file")
@click.option("--name", metavar="NAME", help="Else FILE's own, up to the first dot.")
def import_(session: Session, file: str, name: str | None) -> None:
    """Take an exported checkpoint from FILE (`-`: stdin, with --name)."""
    from labd.model.names import check_name

    wanted = os.path.basename(file).partition(".")[0] if name is None else name
    try:
        check_name(wanted, "checkpoint")
    except InputError as error:
        raise InputError(f"{error.message}; --name NAME chooses one") from error
    receive = session.client.checkpoints.receive
    try:
        if file == "-":
            found = receive(wanted, sys.stdin.buffer)
        else:
            with open(file, "rb") as source:
                facts = os.fstat(source.fileno())
                length = facts.st_size if stat.S_ISREG(facts.st_mode) else None
                found = receive(wanted, source, length)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if session.json:
        session.emit(found)
    else:
        session.say(f"checkpoint {wanted} is there ({size(found['size'])})")


@verb("restore")
@click.argument("lab")
@click.argument("name", metavar="CHECKPOINT")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def restore(session: Session, lab: str, name: str, no_wait: bool) -> None:
    """Take LAB back to CHECKPOINT, in place; what was done since is lost."""

    def begin() -> Operation:
        return session.client.checkpoints.restore(lab, name)

    operation = run_operation(session, lab, begin, wait=not no_wait)
    if session.json:
        session.emit(operation)
    elif no_wait:
        session.say(f"{lab}: restore has begun ({operation['id']})")
    else:
        session.say(f"{lab} is back at {name}")


@verb("fork")
@click.argument("name", metavar="CHECKPOINT")
@click.argument("lab", metavar="NAME")
@click.option(
    "--count", type=click.IntRange(1, 500), metavar="N", help="Start N labs: NAME-1 to NAME-N."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="For on_fork commands: LABD_KEY."
)
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def fork(
    session: Session,
    name: str,
    lab: str,
    count: int | None,
    settings: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Start a lab, or many, from a checkpoint: booted as it was, with the same addresses."""
    values = pairs(settings)
    client = session.client
    if count is None:

        def begin() -> Operation:
            return client.checkpoints.fork(name, lab, settings=values)[0]

        operations = [run_operation(session, lab, begin, wait=not no_wait)]
    else:
        operations = client.checkpoints.fork(name, lab, count=count, settings=values)
        if not no_wait:
            operations = [
                Client.check_operation(client.wait_operation(item["id"])) for item in operations
            ]
    if session.json:
        session.emit({"operations": operations})
        return
    word = "is being forked" if no_wait else "is up"
    for item in operations:
        session.say(f"{item['lab']} {word}, from checkpoint {name}")


@click.group("chapter", cls=Family)
def chapter() -> None:
    """Go through the chapters of an exercise: checkpoints that the template names."""


def _turn(session: Session, lab: str, *, again: bool, wait: bool) -> None:
    operation = run_operation(
        session, lab, lambda: session.client.checkpoints.chapter(lab, again=again), wait=wait
    )
    if session.json:
        session.emit(operation)
    elif wait:
        found = [c["name"] for c in session.client.checkpoints.all() if lab in c["labs"]]
        name = f" {found[0]}" if found else ""
        session.say(f"{lab} is at the begin of chapter{name}")
    else:
        session.say(f"{lab}: it has begun ({operation['id']})")


@verb("next")
@click.argument("lab")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def next_(session: Session, lab: str, no_wait: bool) -> None:
    """Take LAB to its next chapter."""
    _turn(session, lab, again=False, wait=not no_wait)


@verb("again")
@click.argument("lab")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def again(session: Session, lab: str, no_wait: bool) -> None:
    """Take LAB to the begin of its present chapter."""
    _turn(session, lab, again=True, wait=not no_wait)


chapter.add_command(next_)
chapter.add_command(again)
for _command in (save, ls, show, rm, restore, export, import_):
    checkpoint.add_command(_command)
