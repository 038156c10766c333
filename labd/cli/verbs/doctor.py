"""`lab doctor`."""

from __future__ import annotations

import click

from labd.cli.session import FAILED, Session, verb
from labd.cli.text import plain, table


@verb("doctor")
def doctor(session: Session) -> None:
    """Tell what labd can do on this host, and what to mend; exit status 1 when something fails."""
    findings = session.client.doctor()
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
