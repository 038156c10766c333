"""`lab ssh` and `lab ssh-config`."""

from __future__ import annotations

import os
import shutil
import sys

import click

from labd.cli.openssh import DOMAIN, host_name, key_folder, options
from labd.cli.session import Session, node_ref, report, verb
from labd.cli.writing import refusals, writing
from labd.model.errors import IllegalTransition, InputError, NetworkFailed, NotFound

_SSH_FAILED = 255  # as ssh(1) has it


@verb("ssh")
@click.option("-l", "--login", metavar="USER", help="Instead of root; USER@LAB/NODE does the same.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=22, show_default=True)
@click.option("-t", "--tty", is_flag=True, help="Ask for a terminal also for a command.")
@click.option("-o", "extra", multiple=True, metavar="OPTION", help="Passed on to ssh.")
@click.argument("ref", metavar="[USER@]LAB/NODE")
@click.argument("command", nargs=-1, metavar="[--] [COMMAND]...")
def ssh(
    session: Session,
    login: str | None,
    port: int,
    tty: bool,
    extra: tuple[str, ...],
    ref: str,
    command: tuple[str, ...],
) -> None:
    """Open a shell on a node by the system's ssh, or run a command there.

    The host needs no route to the node: labd connects from inside the lab. The exit status is that
    of the command, and 255 when ssh failed.
    """
    if command[:1] == ("--",):  # click leaves it where it stops reading options, as at LAB/NODE
        command = command[1:]
    user, _, address = ref.rpartition("@")
    lab, node = node_ref(address)
    program = shutil.which("ssh")
    if program is None:
        raise NotFound("there is no ssh here; install the package openssh-client")
    try:
        # Tried first, so that what hinders is told in one line, and not by three programs in a row.
        session.client.connect.to_node(lab, node, port).close()
    except (IllegalTransition, NetworkFailed) as error:
        report(error.code, error.message, error.details, as_json=session.json)
        sys.exit(_SSH_FAILED)
    given = options(session) | {"User": login or user or "root", "ControlPath": "none"}
    # ssh takes the first value that it meets, so what was asked for goes first.
    words = [word for option in extra for word in ("-o", option)]
    words += [word for key, value in given.items() for word in ("-o", f"{key}={value}")]
    words += ["-p", str(port), *(["-t"] if tty else [])]
    os.execv(program, ["ssh", *words, "--", host_name(lab, node), *command])  # noqa: S606 -- no shell


# Everything behind LAB/NODE is the command's, so that its own options need no `--`.
ssh.allow_interspersed_args = False


@verb("ssh-config")
@click.argument("lab", required=False, metavar="[LAB]")
@click.option("--write", is_flag=True, help="Write it to ~/.ssh/labd.conf.")
@click.option("-o", "--output", metavar="FILE", help="Write it to a file.")
def ssh_config(session: Session, lab: str | None, write: bool, output: str | None) -> None:
    """Print what makes `ssh NODE.LAB.lab` reach a node, for OpenSSH's Include.

    One block serves all labs of this labd, also those that do not exist yet; with LAB, that one
    alone. scp, sftp, rsync and Ansible read the same file.
    """
    if write and output:
        raise InputError("--write and --output exclude each other; give one")
    if lab is not None:
        session.client.lab(lab)
    text = _block(session, lab)
    path = os.path.expanduser("~/.ssh/labd.conf") if write else output
    _sweep(session)
    if path is None:
        if session.json:
            session.emit({"config": text})
        else:
            session.say(text.rstrip())
        return
    _write(path, text)
    if session.json:
        session.emit({"config": text, "file": path})
        return
    session.say(path)
    session.note(f"put this line at the top of ~/.ssh/config:  Include {path}")


def _block(session: Session, lab: str | None) -> str:
    lines = [
        "# Made by `lab ssh-config`. ssh NODE.LAB.lab reaches a node from inside its lab.",
        f"Host *.{lab or '*'}.{DOMAIN}",
        *(f"    {key} {value}" for key, value in options(session).items()),
    ]
    return "\n".join(lines) + "\n"


def _write(path: str, text: str) -> None:
    with refusals(path, "--output"):
        if path.endswith("/.ssh/labd.conf"):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with writing(path, "--output") as file:
        file.write(text.encode())


def _sweep(session: Session) -> None:
    """Delete keys of labs that are no more."""
    folder = key_folder(session)
    if not os.path.isdir(folder):
        return
    labs = {lab["name"] for lab in session.client.labs()}
    for name in os.listdir(folder):
        parts = name.split(".")
        if len(parts) < 2 or parts[1] not in labs:
            os.unlink(os.path.join(folder, name))
