"""The errors of labd, as one small tree.

    LabdError                      anything labd tells a person about; has a stable `code`
    ├── InputError                 the request is wrong; nothing was changed
    │   ├── TemplateError          a lab template is wrong; has each problem with its place
    │   ├── ImageRefused           an image is unsafe, damaged or not what it was said to be
    │   └── ConfigError            labd.toml, a plugin manifest or a setting is wrong
    ├── NotFound                   the named object does not exist
    ├── Conflict                   the request is fine, the present state forbids it
    │   ├── Busy                   another operation holds the lab; names it
    │   ├── IllegalTransition      the actual and the required states are told
    │   ├── InUse                  the object is needed by others; names them
    │   ├── NoRoom                 the host cannot bear it; says the numbers
    │   └── OverQuota              a lab may not have so much; says the numbers
    ├── Superseded                 an operation was ended early, for another request needs its lab
    ├── Fault                      labd itself is wrong; its log has the details
    ├── Forbidden                  the caller may not do this to that object
    └── WorldError                 the world failed: a process, the kernel, the disk, the network
        ├── CommandFailed          a child process exited with an error; carries its last words
        ├── NodeGone               the QEMU process of a node has ended
        ├── NodeUnresponsive       QEMU did not answer a QMP call before its deadline
        ├── NodeStuck              QEMU was killed, and the kernel does not let it end
        ├── LaunchFailed           QEMU could not be started; carries its stderr
        │   └── AcceleratorFailed  KVM itself failed as QEMU started
        ├── QmpRefused             QEMU understood a QMP command and refused it; its own words
        ├── GuestFailed            the guest did not become ready, or its agent said no
        │   └── GuestAgentAbsent   no guest agent answers
        ├── NetworkFailed          the kernel refused a network request
        ├── StorageFailed          the disk or the inventory failed
        │   └── InventoryDamaged   the inventory is not what labd has written; see `labd rebuild`
        ├── RequestUnreadable      an operation of an earlier labd cannot be carried on
        ├── DownloadFailed         a transfer ended before its time
        └── DaemonUnreachable      the client cannot talk to labd

Every error says what happened and what to do next in one line. HTTP statuses live in `labd.api`
alone, exit statuses in `labd.cli` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class LabdError(Exception):
    """Root of the tree.

    Args:
        message: One line: what happened, and what to do next.
        details: JSON-compatible facts for programs; keys are stable.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details


class InputError(LabdError):
    """The request is wrong; nothing was changed."""

    code = "bad_input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a text, and where.

    Attributes:
        message: What is wrong and what to write instead, one line.
        line: 1-based; 0 when the problem is of the whole text.
        column: 1-based; 0 when unknown.
    """

    message: str
    line: int = 0
    column: int = 0


class TemplateError(InputError):
    """A lab template is wrong. `str()` has one `file:line:column: message` a line."""

    code = "bad_template"

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        lines = [f"{file}:{p.line}:{p.column}: {p.message}" for p in self.problems]
        super().__init__(
            "\n".join(lines),
            file=file,
            problems=[
                {"line": p.line, "column": p.column, "message": p.message} for p in self.problems
            ],
        )


class ImageRefused(InputError):
    """An image is unsafe, damaged, or not what it was said to be. Nothing of it was kept."""

    code = "image_refused"


class KindUnknown(InputError):
    """A node is of a kind for which this daemon has no driver; the message has the known kinds."""

    code = "kind_unknown"


class CapabilityMissing(InputError):
    """A kind of node does not offer what was asked; the message names both."""

    code = "capability_missing"


class ConfigError(InputError):
    """A configuration file, plugin manifest or setting is wrong."""

    code = "bad_config"


class NotFound(LabdError):
    """The named object does not exist."""

    code = "not_found"


class Conflict(LabdError):
    """The request is well formed, but the present state forbids it."""

    code = "conflict"


class Busy(Conflict):
    """Another operation holds the lab; the message names it."""

    code = "busy"


class IllegalTransition(Conflict):
    """An object is not in a state from which the move is allowed."""

    code = "illegal_transition"

    def __init__(self, subject: str, actual: str, required: Sequence[str], action: str) -> None:
        self.subject, self.actual, self.required = subject, actual, tuple(required)
        wanted = " or ".join(self.required) or "no state at all"
        super().__init__(
            f"cannot {action} {subject}: it is {actual}, and must be {wanted}",
            subject=subject,
            actual=actual,
            required=list(self.required),
        )


class InUse(Conflict):
    """The object is needed by others; the message names them."""

    code = "in_use"


class NoRoom(Conflict):
    """The host cannot bear what was asked; the message has the numbers. Nothing was started."""

    code = "no_room"


class OverQuota(Conflict):
    """A lab asks for more than one may have; the message has the numbers. Nothing was changed."""

    code = "over_quota"


class Superseded(LabdError):
    """An operation was ended early, because a later request has taken its lab."""

    code = "superseded"


class Fault(LabdError):
    """labd itself is wrong; what it was doing is undone, and its log has the details."""

    code = "internal"


class Forbidden(LabdError):
    """The caller may not do this to that object."""

    code = "forbidden"


class WorldError(LabdError):
    """The world failed: a process, the kernel, a disk or a network."""

    code = "world_error"


class CommandFailed(WorldError):
    """A child process exited with an error; the message ends with its last words."""

    code = "command_failed"


class NodeGone(WorldError):
    """The QEMU process of a node has ended."""

    code = "node_gone"


class NodeUnresponsive(WorldError):
    """QEMU did not answer a QMP call before its deadline."""

    code = "node_unresponsive"


class NodeStuck(WorldError):
    """QEMU was killed and has not ended in time: the kernel waits for a device or file system."""

    code = "node_stuck"


class LaunchFailed(WorldError):
    """QEMU could not be started; the message has its stderr. No process is left."""

    code = "launch_failed"


class AcceleratorFailed(LaunchFailed):
    """KVM cannot run machines here, or failed as one started; the message says what else can."""

    code = "accelerator_failed"


class QmpRefused(WorldError):
    """QEMU understood a QMP command and refused it; the message has QEMU's words."""

    code = "qmp_refused"


class GuestFailed(WorldError):
    """The guest did not become ready in time, or its agent refused."""

    code = "guest_failed"


class GuestAgentAbsent(GuestFailed):
    """No guest agent answers: there is none in the image, or it has not started yet."""

    code = "guest_agent_absent"


class NetworkFailed(WorldError):
    """The kernel refused a network request; the message names the request and the errno."""

    code = "network_failed"


class StorageFailed(WorldError):
    """The disk or the inventory failed."""

    code = "storage_failed"


class InventoryDamaged(StorageFailed):
    """The inventory is not what labd has written: bad pages, or values that nobody can read."""

    code = "inventory_damaged"


class RequestUnreadable(WorldError):
    """What an operation was asked for is not what labd writes; it was not carried on."""

    code = "request_unreadable"


class DownloadFailed(WorldError):
    """A transfer ended before its time; it can be resumed."""

    code = "download_failed"


class DaemonUnreachable(WorldError):
    """The client cannot talk to labd."""

    code = "daemon_unreachable"
