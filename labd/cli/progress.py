"""Wait for an operation on a lab, and show node by node how it goes."""

from __future__ import annotations

import sys
import time

from labd.cli.text import plain
from labd.client.client import Client
from labd.model.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from labd.cli.session import Session
    from labd.client import types

    class View(Protocol):
        """Shows events of one operation."""

        def __enter__(self) -> View:  # noqa: PYI034
            """Begin."""

        def __exit__(self, *args: object) -> None:
            """End."""

        def node(self, name: str, state: str, reason: str) -> None:
            """Show what became of a node."""


_PREFIX = "io.labd."
_ENDS = {"operation.succeeded", "operation.failed"}


class Lines:
    """Plain lines on stderr: `client: ready (2.3 s)`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._began = time.monotonic()

    def __enter__(self) -> Lines:  # noqa: PYI034 -- typing.Self would cost an import
        """Begin."""
        return self

    def __exit__(self, *args: object) -> None:
        """End."""

    def node(self, name: str, state: str, reason: str) -> None:
        """Print one line."""
        passed = time.monotonic() - self._began
        tail = f": {reason}" if reason else ""
        self._session.note(f"{name}: {state} ({passed:.1f} s){tail}")


def _view(session: Session, lab: str) -> View:
    import os

    if session.json or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return Lines(session)
    from labd.cli.live import LiveTable

    return LiveTable(lab)


def last_seq(client: Client) -> int:
    """Return the number of the newest event."""
    return client.events(limit=1)["last"]


def run_operation(
    session: Session, lab: str, begin: Callable[[], types.Operation], *, wait: bool
) -> types.Operation:
    """Begin an operation, and unless told otherwise wait for its end.

    Raises:
        LabdError: With what it failed.
    """
    if not wait:
        return begin()
    after = last_seq(session.client)
    operation = begin()
    try:
        with _view(session, lab) as view:
            _watch(session.client, view, lab, operation["id"], after)
    except KeyboardInterrupt:
        kind = operation["kind"]
        session.note(f"\nthe {kind} of {lab} goes on; `lab wait {lab} --for idle` waits for it")
        raise
    return Client.check_operation(session.client.wait_operation(operation["id"]))


def _watch(client: Client, view: View, lab: str, operation: str, after: int) -> None:
    """Show events until the operation has ended, or the stream has."""
    stream = client.follow(after, lab=lab)
    try:
        for event in stream:
            kind = str(event["type"]).removeprefix(_PREFIX)
            if event.get("operation") == operation and kind in _ENDS:
                return
            if kind.startswith("node."):
                view.node(event["node"], kind.removeprefix("node."), _reason(event))
    except NotFound:
        return  # events were pruned faster than this reads; the outcome is asked for anyway
    finally:
        stream.close()


def _reason(event: types.Event) -> str:
    data: dict[str, Any] = event.get("data") or {}
    return plain(data.get("reason") or "")


def wait_for_bytes(session: Session, operation: types.Operation, what: str) -> types.Operation:
    """Wait for an operation that counts bytes or steps, with its progress on stderr.

    Raises:
        LabdError: With what it failed.
    """
    shown = ""
    live = sys.stderr.isatty() and not session.json
    while operation["state"] == "running":
        operation = session.client.operation(operation["id"], 0.5)
        line = f"{what}: {progress_text(operation['progress'])}"
        if line != shown and live:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif line != shown and operation["progress"].get("text"):
            session.note(line)
        shown = line
    if live:
        sys.stderr.write("\r\x1b[K")
    return Client.check_operation(operation)


def progress_text(progress: dict[str, Any]) -> str:
    """Return progress in words: `12 MiB of 184 MiB (6 %)`, or the text that it has."""
    text, done, total = progress.get("text"), progress.get("done"), progress.get("total")
    if text:
        return plain(text)
    if not isinstance(done, int):
        return "begins"
    from labd.model.units import format_size

    if not isinstance(total, int) or total <= 0:
        return format_size(done)
    return f"{format_size(done)} of {format_size(total)} ({100 * done // total} %)"
