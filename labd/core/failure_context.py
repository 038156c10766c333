"""What guests said on their serial lines, and what a failed start tells of it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from labd.core.adapters import Adapters
from labd.host.threads import quick
from labd.model.errors import GuestFailed, LabdError
from labd.model.machine import MachineSpec
from labd.model.names import NodeRef
from labd.model.records import NodeRecord, OperationKind, OperationRecord, Wanted
from labd.model.request_kinds import Starting, UpRequest
from labd.model.states import NodeState

_LOG_LIMIT: Final = 1 << 20  # bytes of a console's log
_LINE_LIMIT: Final = 160  # characters of a last line
_DONE: Final = {NodeState.READY, NodeState.DESTROYED}
# ECMA-48: control sequences, and strings up to their terminator.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_][^\x07\x1b]*(?:\x07|\x1b\\)|.)")


def read_log(path: Path) -> bytes:
    """Return what a console's log has, with the part that was put aside when it grew."""
    parts = []
    for part in (path.with_name(path.name + ".1"), path):
        with suppress(FileNotFoundError):
            parts.append(part.read_bytes())
    return b"".join(parts)[-_LOG_LIMIT:]


def has_console(adapters: Adapters, machine: MachineSpec) -> bool:
    """True if machines of this kind say anything on a serial line."""
    return adapters.nodes.of(machine.kind).consoles is not None


def last_line(log: bytes) -> str:
    """Return the last line that shows anything, without control characters; empty: there is none.

    A carriage return begins a line anew, as on a terminal.
    """
    text = _ESCAPES.sub("", log[-8192:].decode(errors="replace"))
    for line in reversed(re.split(r"[\r\n]+", text)):
        shown = "".join(c for c in line if c.isprintable()).strip()
        if shown:
            return shown if len(shown) <= _LINE_LIMIT else shown[:_LINE_LIMIT] + "…"
    return ""


async def with_failure_context(
    adapters: Adapters, operation: OperationRecord, error: LabdError
) -> LabdError:
    """Return an error of a start with what the guest said last, and with where to read on.

    To be asked before the operation is taken back, which may remove the node and its log.

    Args:
        adapters: Of the daemon.
        operation: That failed.
        error: Why; `details["node"]` is the node's name. A start that took too long names none:
            then it is the first node that was not ready.
    """
    named = error.details.get("node")
    if not isinstance(error, GuestFailed) or not (named or error.details.get("timed_out")):
        return error
    nodes = await adapters.inventory.nodes(operation.lab)
    late = [n for n in nodes if n.wanted is Wanted.RUNNING and n.state not in _DONE]
    found = [n for n in nodes if n.name == named] if named else late
    if not found:
        return error
    node = found[0]
    ref = NodeRef(node.lab, node.name)
    line = ""
    if node.machine is not None and has_console(adapters, node.machine):
        path = adapters.nodes.consoles(node.machine).console_log(node.machine)
        with suppress(OSError):
            line = last_line(await quick(read_log, path))
    words = f"{ref} said last: '{line}'" if line else f"{ref} said nothing"
    return type(error)(
        f"{error.message}; {words}{_advice(operation, node)}",
        **{**error.details, "node": node.name, "last_line": line},
    )


def _advice(operation: OperationRecord, node: NodeRecord) -> str:
    """Return where to read on, which is nowhere for a node that goes with its failure."""
    request = operation.request_as(Starting)
    kept = isinstance(request, UpRequest) and request.keep
    if kept or (request.was is not None and node.name in request.was.nodes):
        return f"; `lab logs {node.lab}/{node.name}` shows more"
    if operation.kind is OperationKind.UP:
        return "; with --keep, `lab up` leaves it to look at"
    return ""
