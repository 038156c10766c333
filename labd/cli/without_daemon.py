"""What `lab` leaves to `labd`, because no daemon answers or may run."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NoReturn

from labd.cli.session import Session
from labd.model.errors import NotFound


def find_labd() -> str | None:
    """Return the program `labd` beside this `lab`, else on PATH."""
    beside = os.path.join(os.path.dirname(sys.argv[0]), "labd")
    return beside if os.access(beside, os.X_OK) else shutil.which("labd")


def become_labd(session: Session, *args: str) -> NoReturn:
    """Become `labd` with these arguments, for the same root.

    Raises:
        NotFound: It is not installed here.
    """
    program = find_labd()
    if program is None or session.socket:
        raise NotFound(
            "labd is not on this host: run this where its inventory is, without --socket"
        )
    root = ["--root", session.root] if session.root else []
    sys.stdout.flush()
    os.execv(program, [program, args[0], *root, *args[1:]])  # noqa: S606 - no shell is meant
