"""`lab version`."""

from __future__ import annotations

from labd import __version__
from labd.cli.session import Session, verb


@verb("version")
def version(session: Session) -> None:
    """Print the versions of `lab` and of the daemon; exit status 3 when it does not answer."""
    if not session.json:
        session.say(f"lab {__version__}")
    info = session.client.info()
    if session.json:
        session.emit({"client": __version__, "daemon": info})
    else:
        session.say(f"labd {info['version']} on {session.socket_path}")
        # The host's facts are for administrators, and an older labd does not tell this one.
        if "accel_cpu" in info:
            session.say(f"machines run by {info['accel']}, -cpu {info['accel_cpu']}")
