"""`lab wait`."""

from __future__ import annotations

import time

import click

from labd.cli.session import Session, TimedOut, seconds, split_ref, verb
from labd.model.errors import Conflict, GuestFailed, InputError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from labd.client.types import Lab

_LAB = ("ready", "running", "degraded", "stopped", "failed", "destroyed", "idle")
_NODE = (
    "ready",
    "running",
    "paused",
    "stopped",
    "crashed",
    "panicked",
    "unresponsive",
    "destroyed",
)
# States in which something that is stopped can be without being started.
_STOPPED = {"stopped", "destroyed", "idle"}
_EVERY = 0.2  # seconds between two looks


def _states(_ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    return [state for state in dict.fromkeys(_LAB + _NODE) if state.startswith(begun)]


@verb("wait")
@click.argument("ref", metavar="LAB[/NODE]")
@click.option(
    "--for",
    "wanted",
    default="ready",
    show_default=True,
    metavar="STATE",
    shell_complete=_states,
    help=f"A state of a lab ({', '.join(_LAB)}) or of a node ({', '.join(_NODE)}).",
)
@click.option("--timeout", metavar="TIME", help="Give up after this long, such as 90s or 5m.")
def wait(session: Session, ref: str, wanted: str, timeout: str | None) -> None:
    """Wait until a lab or node is in a state.

    A lab is ready when all its nodes are and nothing is under way, and idle when nothing is under
    way. A running node may be ready too. Exit status 5 when it does not come in time, and 1 at
    once for what is stopped and that nobody is starting.
    """
    lab, node = split_ref(ref)
    known = _NODE if node else _LAB
    if wanted not in known:
        what = "node" if node else "lab"
        raise InputError(
            f"--for {wanted[:40]!r} is no state of a {what}; known: {', '.join(known)}"
        )
    limit = seconds(timeout) if timeout else None
    look = _look_node(session, lab, node, wanted) if node else _look_lab(session, lab, wanted)
    state = _until(look, ref, wanted, limit)
    if session.json:
        session.emit({"ref": ref, "state": state})
    else:
        session.say(f"{ref} is {wanted}")


def _until(look: Callable[[], tuple[bool, str]], ref: str, wanted: str, limit: float | None) -> str:
    end = None if limit is None else time.monotonic() + limit
    while True:
        try:
            reached, state = look()
        except NotFound:
            if wanted == "destroyed":
                return "destroyed"
            raise
        if reached:
            return state
        if end is not None and time.monotonic() >= end:
            raise TimedOut(
                f"{ref} is not {wanted} after {limit:g} s: it is {state}", ref=ref, state=state
            )
        time.sleep(_EVERY)


def _look_lab(session: Session, name: str, wanted: str) -> Callable[[], tuple[bool, str]]:
    def look() -> tuple[bool, str]:
        lab = session.client.lab(name)
        state, idle = lab["state"], lab["operation"] is None
        if wanted == "idle":
            return idle, state
        _require_hope(lab, "", wanted)
        if idle and state == "failed" and wanted in {"ready", "running"}:
            raise GuestFailed(f"lab {name} has failed: {lab['reason']}")
        return idle and state == ("running" if wanted == "ready" else wanted), state

    return look


def _look_node(
    session: Session, lab: str, name: str, wanted: str
) -> Callable[[], tuple[bool, str]]:
    def look() -> tuple[bool, str]:
        state = session.client.node(lab, name)["state"]
        if state == "stopped" and wanted not in _STOPPED:
            _require_hope(session.client.lab(lab), name, wanted)
        return state == wanted or (wanted == "running" and state == "ready"), state

    return look


def _require_hope(lab: Lab, name: str, wanted: str) -> None:
    """Return unless a lab (or its node `name`) shall be stopped, is so, and nothing is under way.

    Raises:
        Conflict: It is, so that it would be waited for until somebody starts it.
    """
    nodes = [node for node in lab["nodes"] if not name or node["name"] == name]
    over = all(node["state"] == node["wanted"] == "stopped" for node in nodes)
    if nodes and over and lab["operation"] is None and wanted not in _STOPPED:
        ref = f"{lab['name']}/{name}" if name else lab["name"]
        raise Conflict(
            f"{ref} is stopped and nothing is under way, so it will not be {wanted}; "
            f"start it with: lab start {ref}"
        )
