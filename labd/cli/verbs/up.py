"""`lab up` and `lab plan`."""

from __future__ import annotations

import time

import click

from labd.cli.leasing import lease_of
from labd.cli.progress import run_operation
from labd.cli.session import Session, deadline, pairs, verb
from labd.cli.source import read_template
from labd.cli.text import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Lab, Operation

_SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the template.",
)


def _name(session: Session, name: str | None, text: str, file: str, given: dict[str, str]) -> str:
    return name or session.client.validate(text, file, given)["name"]


@verb("plan")
@click.argument("template")
@click.option("--name", metavar="LAB", help="Name of the lab; else the template's.")
@_SET
def plan(session: Session, template: str, name: str | None, settings: tuple[str, ...]) -> None:
    """Show what `lab up` would do with a template; changes nothing."""
    text, file = read_template(session, template)
    given = pairs(settings)
    lab = _name(session, name, text, file, given)
    changes = session.client.plan(lab, text, file=file, settings=given)
    if session.json:
        session.emit({"lab": lab, "changes": changes})
    elif not changes:
        session.say(f"{lab}: nothing to do")
    else:
        rows = [(c["action"], c["kind"], c["name"], c["why"]) for c in changes]
        session.say(table(("ACTION", "KIND", "NAME", "WHY"), rows))


@verb("up")
@click.argument("template")
@click.option("--name", metavar="LAB", help="Name of the lab; else the template's.")
@_SET
@click.option("--from", "source", metavar="CHECKPOINT", help="Do not boot: fork a checkpoint.")
@click.option("--lease", metavar="TIME", help="Stop the lab after this long, such as 3h.")
@click.option(
    "--keep-for", metavar="TIME", help="With --lease: destroy it this long after. [default: 1d]"
)
@click.option("--keep", is_flag=True, help="Leave what a failed up has made, to look at it.")
@click.option("--force", is_flag=True, help="Power nodes that restart off without asking them.")
@click.option("--timeout", metavar="TIME", help="Give up after this long, such as 90s or 5m.")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def up(
    session: Session,
    template: str,
    name: str | None,
    settings: tuple[str, ...],
    source: str | None,
    lease: str | None,
    keep_for: str | None,
    keep: bool,
    force: bool,
    timeout: str | None,
    no_wait: bool,
) -> None:
    """Bring a lab up: TEMPLATE is a file, `-`, or the name of a shipped template.

    On a running lab it applies what was edited, and changes nothing else. Returns when every node
    is ready. A failed up leaves nothing behind, unless --keep. With --from, the lab begins where
    the checkpoint was saved; the template must have the same machines and networks.
    """
    text, file = read_template(session, template)
    given = pairs(settings)
    limit = deadline(timeout)
    given_lease = lease_of(lease, keep_for)
    lab = _name(session, name, text, file, given)
    began = time.monotonic()

    def begin() -> Operation:
        if source is None:
            return session.client.up(
                lab,
                text,
                file=file,
                settings=given,
                keep=keep,
                force=force,
                timeout=limit,
                lease=given_lease,
            )
        template = {"text": text, "file": file, "settings": given}
        return session.client.checkpoints.fork(source, lab, template=template, lease=given_lease)[0]

    operation = run_operation(session, lab, begin, wait=not no_wait)
    if session.json:
        session.emit(operation)
    elif no_wait:
        session.say(f"{lab}: up has begun ({operation['id']}); `lab wait {lab}` waits for it")
    else:
        session.say(f"{lab} is up ({time.monotonic() - began:.1f} s)")
        for line in _published(session.client.lab(lab)):
            session.say(line)


def _published(lab: Lab) -> list[str]:
    """Return a line for each port of the host that leads into a lab: some were chosen just now."""
    if not lab["published"]:
        return []
    from labd.model.publish import endpoint

    return [
        f"{endpoint(item['address'], item['host_port'])} leads to port {item['port']} of "
        f"{lab['name']}/{item['node']}"
        for item in lab["published"]
    ]
