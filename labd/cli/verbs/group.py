"""`lab class`."""

from __future__ import annotations

import time

import click

from labd.cli.leasing import lease_of
from labd.cli.progress import run_operation
from labd.cli.session import Family, Session, TimedOut, pairs, seconds, verb
from labd.cli.source import read_template
from labd.cli.text import plain, table
from labd.model.errors import InputError, NotFound, WorldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_POLL = 0.5  # seconds
_LIMIT = 3600.0  # seconds
_NO_LAB = {"waiting", "failed", "gone"}  # states of students; else it is that of the lab


@click.group("class", cls=Family)
def class_() -> None:
    """Start labs for everybody on a roster, forked from one checkpoint or template."""


def _who(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who takes part."""
    students = click.option(
        "--students", metavar="FILE", help="CSV: a column `name`, others are parameters."
    )
    count = click.option(
        "--count", type=click.IntRange(1, 500), metavar="N", help="Without a roster: s1 to sN."
    )
    return students(count(function))


def _roster(students: str | None, count: int | None) -> list[dict[str, object]]:
    if (students is None) is (count is None):
        raise InputError("say who takes part: --students FILE or --count N")
    if students is None:
        return [{"name": f"s{n}"} for n in range(1, (count or 0) + 1)]
    from labd.cli.roster import read_roster

    return read_roster(students)


@verb("start")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--name", metavar="CLASS", help="The labs are CLASS-STUDENT. [default: the source's name]"
)
@_who
@click.option("--lease", metavar="TIME", help="Stop each lab after this long, such as 3h.")
@click.option(
    "--keep-for", metavar="TIME", help="With --lease: destroy it this long after. [default: 1d]"
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the template, and for on_fork commands: LABD_KEY.",
)
@click.option("--queue", is_flag=True, help="Let students wait for whom there is no room yet.")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def start(
    session: Session,
    source: str,
    name: str | None,
    students: str | None,
    count: int | None,
    lease: str | None,
    keep_for: str | None,
    settings: tuple[str, ...],
    queue: bool,
    no_wait: bool,
) -> None:
    """Fork a lab for each student. Asked again, for those only who have none, and new ones.

    SOURCE is a checkpoint; or a template, as for `lab up`: a first copy is booted then, saved as a
    checkpoint of the class's name, and the others are forked from it.
    """
    roster, given = _roster(students, count), pairs(settings)
    checkpoint, template = _source(session, source, given)
    if template is not None:
        text, file, own = template["text"], template["file"], template["settings"]
        name = name or session.client.validate(text, file, own)["name"]
        known = {item["name"] for item in session.client.classes.all()}
        if not no_wait and name not in known:
            session.note("the first copy is booted and saved, then the others are forked from it")
    name = name or checkpoint
    found = session.client.classes.start(
        name,
        checkpoint,
        roster,
        template=template,
        settings=given,
        lease=lease_of(lease, keep_for),
        queue=queue,
    )
    _finish(session, name, found, no_wait=no_wait)


def _source(
    session: Session, source: str, given: dict[str, str]
) -> tuple[str, dict[str, Any] | None]:
    """Return the name of a checkpoint, or a template with those settings that it declares."""
    if any(item["name"] == source for item in session.client.checkpoints.all()):
        return source, None
    try:
        text, file = read_template(session, source)
    except InputError as error:
        if "/" in source or "." in source:
            raise
        raise NotFound(
            f"there is no checkpoint {source}, and no template of that name; "
            "`lab checkpoint ls` and `lab template ls` list them"
        ) from error
    declared = {item["name"] for item in session.client.template_parameters(text, file)}
    own = {key: value for key, value in given.items() if key in declared}
    return "", {"text": text, "file": file, "settings": own}


def _finish(session: Session, name: str, found: dict[str, Any], *, no_wait: bool) -> None:
    """Wait until everybody was served, and tell how it went."""
    end = time.monotonic() + _LIMIT
    while not no_wait and not found["done"]:
        if time.monotonic() > end:
            raise TimedOut(f"class {name} is not ready; `lab class status {name}` shows why")
        time.sleep(_POLL)
        found = session.client.classes.get(name)
    failed = [item for item in found["students"] if item["state"] == "failed"]
    if session.json:
        session.emit(found)
    elif no_wait:
        session.say(f"class {name} is being started")
    else:
        there = [item for item in found["students"] if item["state"] not in _NO_LAB]
        down = [f"{item['lab']} is {item['state']}" for item in there if item["state"] != "running"]
        up = len(there) - len(down)
        more = f"; {', '.join(down[:5])}{' …' * (len(down) > 5)}" if down else ""
        session.say(f"class {name}: {up} of {len(found['students'])} labs are up{more}")
    if failed and not no_wait:
        first = failed[0]
        raise WorldError(
            f"{len(failed)} students have no lab, the first is {first['name']}: {first['reason']}; "
            "the same command tries again"
        )


@verb("add")
@click.argument("name", metavar="CLASS")
@_who
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def add(
    session: Session, name: str, students: str | None, count: int | None, no_wait: bool
) -> None:
    """Let more students take part in CLASS; they get what the others got.

    With --count, the class has s1 to sN then; who is there already is left alone.
    """
    found = session.client.classes.add(name, _roster(students, count))
    _finish(session, name, found, no_wait=no_wait)


@verb("ls")
def ls(session: Session) -> None:
    """List classes."""
    found = session.client.classes.all()
    if session.json:
        session.emit({"classes": found})
        return
    if not found:
        session.note("no classes; `lab class start SOURCE --count N` makes one")
        return
    rows = [
        (c["name"], c["checkpoint"], len(c["students"]), _count(c, "running"), c["wanted"])
        for c in found
    ]
    session.say(table(("CLASS", "CHECKPOINT", "STUDENTS", "RUNNING", "WANTED"), rows))


def _count(found: dict[str, Any], state: str) -> int:
    return sum(item["state"] == state for item in found["students"])


@verb("status")
@click.argument("name", metavar="CLASS")
def status(session: Session, name: str) -> None:
    """Show a class and how its labs are."""
    found = session.client.classes.get(name)
    if session.json:
        session.emit(found)
        return
    session.say(f"class {name}, from checkpoint {found['checkpoint']}, shall be {found['wanted']}")
    rows = [
        (item["name"], item["lab"], item["state"], plain(item["reason"]))
        for item in found["students"]
    ]
    session.say(table(("STUDENT", "LAB", "STATE", ""), rows))


@verb("extend")
@click.argument("name", metavar="CLASS")
@click.argument("length", metavar="TIME")
def extend(session: Session, name: str, length: str) -> None:
    """Let the leases of all labs of CLASS last TIME longer."""
    found = session.client.classes.extend(name, seconds(length))
    if session.json:
        session.emit(found)
    else:
        session.say(f"class {name}: all its leases last {length} longer")


@verb("reset")
@click.argument("name", metavar="CLASS")
@click.argument("student", metavar="STUDENT")
def reset(session: Session, name: str, student: str) -> None:
    """Take the lab of STUDENT back to where the class began."""
    found = {item["name"]: item for item in session.client.classes.get(name)["students"]}
    if student not in found:
        raise NotFound(f"there is no student {student} in class {name}")
    if found[student]["state"] in _NO_LAB:
        raise NotFound(
            f"student {student} of class {name} has no lab ({found[student]['state']}); the "
            "command that started the class, given again, makes one"
        )
    lab = found[student]["lab"]
    operation = run_operation(
        session, lab, lambda: session.client.checkpoints.restore(lab), wait=True
    )
    if session.json:
        session.emit(operation)
    else:
        session.say(f"{lab} is back where the class began")


@verb("tokens")
@click.argument("name", metavar="CLASS")
@click.option("--student", "students", multiple=True, metavar="STUDENT", help="Only of this one.")
@click.option("--renew", is_flag=True, help="Others than before, which are void then.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: student, lab, token, expires.")
def tokens(
    session: Session, name: str, students: tuple[str, ...], renew: bool, as_csv: bool
) -> None:
    """Print the token of each student's lab, for handing out; the same ones each time.

    A token opens its lab alone. It ends with the lab, and with the lab's lease.
    """
    found = session.client.tokens.of_class(name, students, renew=renew)
    if session.json:
        session.emit({"tokens": found})
        return
    columns = ("student", "lab", "token", "expires")
    rows = [tuple(item[column] for column in columns) for item in found]
    if as_csv:
        import csv
        import sys

        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    elif not found:
        session.note(f"no student of class {name} has a lab yet; see `lab class status {name}`")
    else:
        session.say(table(tuple(column.upper() for column in columns), rows))


@verb("stop")
@click.argument("name", metavar="CLASS")
def stop(session: Session, name: str) -> None:
    """Begin to stop all labs of CLASS; their disks are kept."""
    found = session.client.classes.stop(name)
    if session.json:
        session.emit(found)
    else:
        session.say(f"class {name} is being stopped")


@verb("destroy")
@click.argument("name", metavar="CLASS")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def destroy(session: Session, name: str, no_wait: bool) -> None:
    """Remove CLASS and all its labs."""
    found = session.client.classes.destroy(name)
    end = time.monotonic() + _LIMIT
    try:
        while not no_wait:
            if time.monotonic() > end:
                raise TimedOut(f"class {name} is not gone; `lab class status {name}` shows why")
            session.client.classes.get(name)
            time.sleep(_POLL)
    except NotFound:
        pass
    if session.json:
        session.emit(found)
    else:
        session.say(f"class {name} is {'being ' if no_wait else ''}destroyed")


for _command in (start, add, ls, status, extend, reset, tokens, stop, destroy):
    class_.add_command(_command)
