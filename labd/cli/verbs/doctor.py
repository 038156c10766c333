"""`lab doctor`."""

from __future__ import annotations

import click

from labd.cli.session import FAILED, Session, verb
from labd.cli.text import plain, table
from labd.cli.without_daemon import become_labd, find_labd
from labd.model.errors import DaemonUnreachable


@verb("doctor")
def doctor(session: Session) -> None:
    """Tell what labd can do on this host, and what to mend; exit status 1 when something fails.

    Where no daemon answers, `labd doctor` looks by itself.
    """
    try:
        findings = session.client.doctor()
    except DaemonUnreachable:
        _without_daemon(session)
        raise
    if session.json:
        session.emit({"findings": findings})
    else:
        rows = [(item["level"], item["name"], item["text"]) for item in findings]
        session.say(table(("LEVEL", "WHAT", "FOUND"), rows))
        for item in findings:
            if item["level"] != "ok" and item["advice"]:
                session.say(f"{item['name']}: {plain(item['advice'])}")
    if any(item["level"] == "fail" for item in findings):
        click.get_current_context().exit(FAILED)


def _without_daemon(session: Session) -> None:
    """Become `labd doctor`; return when it is not installed beside `lab`."""
    if find_labd(session) is None:
        return
    session.note("lab: labd does not run; looking at the host without it")
    become_labd(session, "doctor", *(["--json"] if session.json else []))
