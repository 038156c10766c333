"""What `lab` leaves to `labd`, because no daemon answers or may run."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from labd.cli.session import Session
from labd.client.places import is_url
from labd.model.errors import NotFound


def find_labd(session: Session) -> str | None:
    """Return the program `labd` beside this `lab`, else on PATH; None for a daemon elsewhere.

    Where a daemon that was named by its socket or URL has its inventory is not known here.
    """
    if session.socket or is_url(session.socket_path):
        return None
    import shutil

    beside = os.path.join(os.path.dirname(sys.argv[0]), "labd")
    return beside if os.access(beside, os.X_OK) else shutil.which("labd")


def become_labd(session: Session, *args: str) -> NoReturn:
    """Become `labd` with these arguments, for the same root.

    Raises:
        NotFound: It is not installed here.
    """
    program = find_labd(session)
    if program is None:
        raise NotFound(
            "labd is not on this host: run this where its inventory is, without --socket or --url"
        )
    root = ["--root", session.root] if session.root else []
    sys.stdout.flush()
    os.execv(program, [program, args[0], *root, *args[1:]])  # noqa: S606 - no shell is meant
