"""`lab`: finds the verb that is asked for, imports it alone, turns errors into exit statuses."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys

import click

from labd import __version__
from labd.cli.session import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    NOT_FOUND,
    Family,
    Session,
    json_option,
    report,
    status_of,
)
from labd.model.errors import LabdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# What the kernel says where stdout is a file that cannot grow (write(2)).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# Verb -> module below labd.cli.verbs, and the line that `lab --help` shows without importing it.
VERBS: Mapping[str, tuple[str, str]] = {
    "validate": ("validate", "Check a lab template; every mistake with its place."),
    "plan": ("up", "Show what `up` would do."),
    "up": ("up", "Bring a lab up, or apply an edited template."),
    "down": ("act", "Stop a lab and keep its disks."),
    "destroy": ("act", "Remove a lab and everything of it."),
    "start": ("act", "Start a lab or some of its nodes."),
    "stop": ("act", "Ask nodes to power off, then power them off."),
    "restart": ("act", "Stop and start."),
    "pause": ("act", "Hold the CPUs of nodes still."),
    "resume": ("act", "Let paused nodes run on."),
    "reset": ("act", "Take a fork back to its start, or press reset buttons."),
    "fork": ("checkpoint", "Start labs from a checkpoint."),
    "checkpoint": ("checkpoint", "Freeze labs, and take them back."),
    "chapter": ("checkpoint", "Go through the chapters of an exercise."),
    "pool": ("pool", "Keep forks ready, so that a start takes no time."),
    "class": ("group", "Start labs for everybody on a roster."),
    "lease": ("lease", "Say until when labs may run."),
    "ls": ("ls", "List labs."),
    "top": ("top", "Show what running nodes take of the host."),
    "status": ("status", "Show a lab, a node, or labd itself."),
    "wait": ("wait", "Wait until a lab or node is in a state."),
    "console": ("console", "Attach to the serial line of a node."),
    "disk": ("disk", "List, attach and detach disks of a node."),
    "cdrom": ("disk", "Insert a CD into a node, or eject it."),
    "node": ("node", "Add a node to a lab, or remove one."),
    "link": ("link", "Cut, slow down and spoil the links of a lab."),
    "capture": ("capture", "Write the packets of a link, network or NIC as pcapng."),
    "screenshot": ("screen", "Take a picture of a node's screen."),
    "type": ("screen", "Type text or keys on a node's keyboard."),
    "vnc": ("screen", "Forward a node's screen to a VNC viewer."),
    "exec": ("exec", "Run a command in a node, or in all of a lab."),
    "cp": ("cp", "Copy files and folders to a node, or from one."),
    "ssh": ("ssh", "Open a shell on a node, or run a command there."),
    "ssh-config": ("ssh", "Make plain ssh, scp, rsync and Ansible reach nodes."),
    "inventory": ("inventory", "Print the nodes of a lab for Ansible."),
    "connect": ("connect", "Connect stdin and stdout to a TCP port of a node."),
    "forward": ("forward", "Lead ports of this host to ports of a node."),
    "proxy": ("forward", "Serve as a SOCKS5 proxy into a lab."),
    "logs": ("logs", "Print what nodes and QEMU said and labd did, by time."),
    "events": ("events", "Print events, or follow them."),
    "image": ("image", "Import, list, show, remove and build images."),
    "profile": ("profile", "List, show, add and remove VM profiles."),
    "template": ("template", "Shipped templates, their parameters, and the schema."),
    "token": ("token", "Let instructors and students in."),
    "whoami": ("token", "Tell who you are for labd."),
    "plugin": ("plugin", "List, enable, disable, watch and write plugins."),
    "doctor": ("doctor", "Tell what this host can do, and what to mend."),
    "fsck": ("fsck", "Hold the host against the inventory, and repair."),
    "version": ("version", "Print the versions of `lab` and labd."),
    "completion": ("completion", "Print a completion script for bash, zsh or fish."),
}


class LazyGroup(Family):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return all verbs, in the order in which people meet them."""
        return list(VERBS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"labd.cli.verbs.{VERBS[cmd_name][0]}")
        name = cmd_name.replace("-", "_")
        command = getattr(module, name, None) or getattr(module, f"{name}_")  # class_
        return command if isinstance(command, click.Command) else None

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 ok, 1 failed, 2 bad usage or input, 3 daemon unreachable, "
    "4 not found, 5 timed out.",
)
@click.option("--root", metavar="DIR", help="The daemon's root; else $LABD_ROOT, else /.")
@click.option("--socket", metavar="PATH", help="The daemon's socket; else $LABD_SOCKET.")
@click.option("--url", metavar="URL", help="A daemon elsewhere; else $LABD_URL. See $LABD_TOKEN.")
@click.option("--ca", metavar="FILE", help="Certificates to trust with --url; else $LABD_CA.")
@click.version_option(__version__, prog_name="lab", message="%(prog)s %(version)s")
@click.pass_obj
def cli(
    session: Session, root: str | None, socket: str | None, url: str | None, ca: str | None
) -> None:
    """Take labs of real machines on real networks up and down."""
    session.url = url or ""
    if ca is not None:
        os.environ["LABD_CA"] = ca
    session.root = root or ""
    session.socket = socket or ""


cli.params.append(json_option())


def run(argv: list[str]) -> int:
    """Run `lab` with arguments; return the exit status."""
    session = Session()
    as_json = "--json" in argv
    try:
        status = cli.main(argv, prog_name="lab", obj=session, standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except LabdError as error:
        sys.stdout.flush()
        report(error.code, error.message, error.details, as_json=as_json)
        return status_of(error)
    except click.UsageError as error:
        _usage(error, as_json=as_json)
        return BAD_INPUT
    except click.ClickException as error:
        report("bad_input", error.format_message(), {}, as_json=as_json)
        return NOT_FOUND if isinstance(error, click.FileError) else BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\n")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader has gone (`lab events | head`): nothing more can be said, and nothing is wrong.
        # Inside of a verb click makes an exit with status 1 of it, and of nothing else here.
        if isinstance(error, SystemExit) and error.code != FAILED:
            raise
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- for the rest of life
        return 0
    except OSError as error:
        if error.errno not in _FULL:
            raise
        report("failed", f"the output cannot be written: {error.strerror}", {}, as_json=as_json)
        return FAILED
    finally:
        session.close()


def _usage(error: click.UsageError, *, as_json: bool) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        if as_json:
            report("bad_usage", "missing verb; see --help", {}, as_json=True)
        else:
            sys.stderr.write(error.format_message() + "\n")
        return
    path = error.ctx.command_path if error.ctx is not None else ""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        from labd.model.names import nearest

        near = nearest(error.option_name, error.possibilities or ())
        message = f"no such option '{error.option_name}'"
        message += f"; did you mean '{near}'?" if near else ""
        before = {word for param in cli.params for word in param.opts}
        if error.option_name in before and error.option_name not in (error.possibilities or ()):
            message = f"{error.option_name} stands before the verb: lab {error.option_name} …"
            path = ""
    if path and not message.endswith("?"):
        message += f"; see {path} --help"
    message = message[:1].lower() + message[1:]
    report("bad_usage", message, {}, as_json=as_json)


def main() -> None:
    """Entry point of `lab`."""
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # Taking the interpreter down costs a tenth of `lab ls`; nothing here waits for it.
    os._exit(status)


if __name__ == "__main__":
    main()
