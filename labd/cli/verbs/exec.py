"""`lab exec`."""

from __future__ import annotations

import select
import sys

import click

from labd.cli.session import Session, report, split_ref, verb
from labd.client.client import Client
from labd.client.guests import Done
from labd.model.errors import DaemonUnreachable, InputError, LabdError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_STDIN_LIMIT = 512 << 10  # bytes, as the API has it
_NOT_RUN = 255  # as ssh(1) has it
_AT_ONCE = 16  # nodes


@verb("exec")
@click.option("--all", "all_", is_flag=True, help="In every node of a lab, at once.")
@click.option("-n", "no_stdin", is_flag=True, help="Pass no stdin; a terminal is never passed.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
)
@click.argument("ref", metavar="LAB/NODE")
@click.argument("command", nargs=-1, required=True, metavar="[--] COMMAND...")
def exec_(
    session: Session,
    all_: bool,
    no_stdin: bool,
    timeout: float,
    ref: str,
    command: tuple[str, ...],
) -> None:
    """Run a command in a node by its guest agent; it needs no network.

    Stdin, stdout and stderr are the command's (stdin up to 512 KiB, each output up to 1 MiB), and
    so is the exit status: 128 and the number of the signal where one ended it, 255 when it could
    not be run. No shell reads the words: `lab exec web/a -- sh -c "ip route | wc -l"`.

    With --all and a lab's name it runs in every node; each line begins with the node's name, and
    the exit status is the highest.
    """
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise InputError("there is no command; write it behind --")
    if all_:
        lab, node = split_ref(ref)
        if node:
            raise InputError(f"--all wants a lab: lab exec --all {lab} -- {argv[0]}")
        _in_all(session, lab, argv, _stdin(session, no_stdin), timeout)
        return
    lab, node = split_ref(ref)
    if not node:
        raise InputError(
            f"{ref[:80]!r} is a lab: name a node, as {lab}/NODE, or ask every node with --all"
        )
    stdin = _stdin(session, no_stdin)
    try:
        done = session.client.guests.execute(lab, node, argv, stdin, timeout)
    except LabdError as error:
        _end(_told(session, error))
        return
    if session.json:
        session.emit({"lab": lab, "node": node, **_shown(done)})
    else:
        _write(sys.stdout, done.stdout)
        _write(sys.stderr, done.stderr)
        if done.truncated:
            session.note("lab: there was more than 1 MiB of output; the rest is lost")
    _end(_status(done))


# Everything behind LAB/NODE is the command's, so that its own options need no `--`.
exec_.allow_interspersed_args = False


def _in_all(session: Session, lab: str, argv: Sequence[str], stdin: bytes, timeout: float) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [node["name"] for node in session.client.lab(lab)["nodes"]]

    def run(name: str) -> Done | LabdError:
        try:
            with Client(session.socket_path) as client:
                return client.guests.execute(lab, name, argv, stdin, timeout)
        except LabdError as error:
            return error

    statuses: list[int] = []
    shown: list[dict[str, object]] = []
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for name, done in zip(names, pool.map(run, names), strict=True):
            if isinstance(done, LabdError):
                statuses.append(_NOT_RUN)
                shown.append({"node": name, "error": {"code": done.code, "message": done.message}})
                if not session.json:
                    session.note(f"{name}: lab: {done.message}")
                continue
            statuses.append(_status(done))
            shown.append({"node": name, **_shown(done)})
            if not session.json:
                _write(sys.stdout, _marked(name, done.stdout))
                _write(sys.stderr, _marked(name, done.stderr))
                if done.status:
                    session.note(f"{name}: ended with {_status(done)}")
    if session.json:
        session.emit({"lab": lab, "nodes": shown})
    _end(max(statuses, default=0))


def _stdin(session: Session, no_stdin: bool) -> bytes:
    """Return what the command shall read: all of ours, for the agent takes no more later."""
    if no_stdin or sys.stdin is None or sys.stdin.isatty():
        return b""
    stream = sys.stdin.buffer
    if not select.select([stream], [], [], 2.0)[0]:
        session.note("lab: waiting for the end of stdin; -n passes none")
    data = stream.read(_STDIN_LIMIT + 1)
    if len(data) > _STDIN_LIMIT:
        raise InputError(
            f"stdin of a command is at most {_STDIN_LIMIT >> 10} KiB; "
            "copy it with `lab cp` first, and have the command read the file"
        )
    return data


def _marked(name: str, output: bytes) -> bytes:
    return b"".join(f"{name}: ".encode() + line + b"\n" for line in output.splitlines())


def _write(stream: TextIO, data: bytes) -> None:
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def _shown(done: Done) -> dict[str, object]:
    return {
        "status": done.status,
        "stdout": done.stdout.decode(errors="replace"),
        "stderr": done.stderr.decode(errors="replace"),
        "truncated": done.truncated,
    }


def _status(done: Done) -> int:
    return 128 - done.status if done.status < 0 else done.status & 0xFF or int(done.status != 0)


def _told(session: Session, error: LabdError) -> int:
    """Report what kept the command from its end; return the exit status."""
    if isinstance(error, InputError | NotFound | DaemonUnreachable):
        raise error
    report(error.code, error.message, error.details, as_json=session.json)
    return _NOT_RUN


def _end(status: int) -> None:
    sys.stdout.flush()
    click.get_current_context().exit(status)
