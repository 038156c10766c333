"""Events: CloudEvents 1.0 records of what did happen.

`EventDraft` is what the engine says; the inventory gives it its `seq`, in the transaction that also
writes the state, and it becomes an `Event`. `docs/events.md` is the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SPECVERSION = "1.0"
CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "io.labd."


class EventType(StrEnum):
    """Every kind of event, without the `io.labd.` prefix that it has on the wire."""

    DAEMON_STARTED = "daemon.started"
    DAEMON_STOPPED = "daemon.stopped"
    HOST_MEMORY_LOW = "host.memory-low"  # the newest labs are paused now
    HOST_MEMORY_OK = "host.memory-ok"
    HOST_TASK_FAILED = "host.task-failed"  # by a fault of labd; it is started again
    HOST_TASK_RECOVERED = "host.task-recovered"  # it has run for a while without a fault
    OUTBOX_FILLING = "outbox.filling"  # half of what may wait for the broker does
    OUTBOX_DROPPED = "outbox.dropped"  # the oldest were never published; data: first, last
    DAEMON_REBUILT = "daemon.rebuilt"  # the inventory was damaged, and made anew

    LAB_CREATED = "lab.created"
    LAB_CHANGED = "lab.changed"  # its spec was replaced by `up` with an edited template
    LAB_STATE = "lab.state"  # data: from, to
    LAB_DESTROYED = "lab.destroyed"
    LAB_PAUSED = "lab.paused"  # for the host cannot bear it; data: cause, reason, nodes
    LAB_CONNECTIONS_REFUSED = "lab.connections-refused"  # to published ports; how many, and why
    LAB_WARNING = "lab.warning"  # said by a plugin or a person: by, reason, text, left
    LAB_LEASE_SET = "lab.lease-set"  # given, extended, or moved along with the wall clock
    LAB_LEASE_WARNING = "lab.lease-warning"
    LAB_LEASE_ENDED = "lab.lease-ended"  # the lab is stopped now, and destroyed later
    LAB_LEASE_CANCELLED = "lab.lease-cancelled"

    NODE_CREATED = "node.created"
    NODE_STARTING = "node.starting"
    NODE_RUNNING = "node.running"
    NODE_READY = "node.ready"
    NODE_PAUSED = "node.paused"
    NODE_RESUMED = "node.resumed"
    NODE_RESET = "node.reset"
    NODE_STOPPING = "node.stopping"
    NODE_STOPPED = "node.stopped"
    NODE_CRASHED = "node.crashed"
    NODE_PANICKED = "node.panicked"
    NODE_WATCHDOG = "node.watchdog"
    NODE_IO_ERROR = "node.io-error"
    NODE_UNRESPONSIVE = "node.unresponsive"
    NODE_RESPONSIVE = "node.responsive"
    NODE_STUCK = "node.stuck"  # its QEMU was killed and does not end
    NODE_CONSOLE_LOST = "node.console-lost"  # nobody hears its serial line
    NODE_CONSOLE_RESTORED = "node.console-restored"
    NODE_ADOPTED = "node.adopted"
    NODE_PUBLISHED = "node.published"
    NODE_UNPUBLISHED = "node.unpublished"
    NODE_DESTROYED = "node.destroyed"
    NODE_DEVICE_ATTACHED = "node.device-attached"  # while it runs; data: kind, name
    NODE_DEVICE_DETACHED = "node.device-detached"  # while it runs; data: kind, name
    NODE_MEDIUM_CHANGED = "node.medium-changed"  # data: image, empty when it was taken out

    NETWORK_UP = "network.up"
    NETWORK_DOWN = "network.down"
    NETWORK_LEASE = "network.lease"  # an address was given out, or has another name or owner
    NETWORK_LEASE_ENDED = "network.lease-ended"
    NETWORK_SERVER_ENDED = "network.server-ended"  # it is started again
    NETWORK_SERVER_RESTORED = "network.server-restored"

    LINK_CHANGED = "link.changed"  # data: nic, down, and what happens to what it sends

    CLASS_STARTED = "class.started"  # or students were added
    CLASS_READY = "class.ready"  # every student was served, well or not
    CLASS_STUDENT_FAILED = "class.student-failed"
    CLASS_STOPPED = "class.stopped"  # it shall be: its labs are taken down
    CLASS_DESTROYING = "class.destroying"
    CLASS_DESTROYED = "class.destroyed"

    CHECKPOINT_SAVED = "checkpoint.saved"
    CHECKPOINT_REMOVED = "checkpoint.removed"

    POOL_SET = "pool.set"  # made, or another size; data: size, was
    POOL_READY = "pool.ready"  # so many forks stand ready; data: size
    POOL_TAKEN = "pool.taken"  # a fork became a lab; data: left
    POOL_GIVEN_BACK = "pool.given-back"  # the host needed the memory; data: forks, left
    POOL_FAILED = "pool.failed"  # a fork could not be made; data: reason
    POOL_COOLED = "pool.cooled"  # it is no more

    IMAGE_ADDED = "image.added"
    IMAGE_REMOVED = "image.removed"
    IMAGE_FAILED = "image.failed"
    PROFILE_ADDED = "profile.added"
    PROFILE_REMOVED = "profile.removed"

    OPERATION_STARTED = "operation.started"
    OPERATION_PROGRESS = "operation.progress"
    OPERATION_SUCCEEDED = "operation.succeeded"
    OPERATION_FAILED = "operation.failed"

    PLUGIN_ENABLED = "plugin.enabled"
    PLUGIN_DISABLED = "plugin.disabled"
    PLUGIN_STARTED = "plugin.started"
    PLUGIN_CRASHED = "plugin.crashed"

    TOKEN_CREATED = "token.created"  # noqa: S105 - no secret
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - no secret
    AUDIT_REQUEST = (
        "audit.request"  # who asked for what; data: actor, role, action, object, outcome
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDraft:
    """Something that did happen, before it has a number.

    Attributes:
        type: What.
        lab: Name of the lab, empty when it concerns none.
        node: Name of the node inside the lab, empty when it concerns none.
        operation: Id of the operation that caused it, empty when none did.
        subject: Name of the network, image, profile or plugin that it concerns, else empty.
        data: JSON-compatible facts; keys are stable per type.
    """

    type: EventType
    lab: str = ""
    node: str = ""
    operation: str = ""
    subject: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A numbered happening.

    Attributes:
        seq: 1, 2, 3… without gaps over the life of one inventory.
        time: RFC 3339 UTC with microseconds, such as `2026-01-31T12:00:00.123456Z`.
        source: `/labd/<host id>`.
        owner: Whose what it concerns was then; empty: the administrators'. Not on the wire.
        lab_key: Of the lab that it concerns, for another one may have had its name. Nor this.
    """

    seq: int
    time: str
    source: str
    draft: EventDraft
    owner: str = ""
    lab_key: str = ""

    def cloudevent(self) -> dict[str, object]:
        """Return the CloudEvents 1.0 structured JSON form."""
        h = self.draft
        subject = h.subject or (f"{h.lab}/{h.node}" if h.node else h.lab)
        record: dict[str, object] = {
            "specversion": SPECVERSION,
            "id": str(self.seq),
            "source": self.source,
            "type": TYPE_PREFIX + h.type,
            "time": self.time,
            "datacontenttype": "application/json",
            "seq": self.seq,
        }
        context = {"subject": subject, "lab": h.lab, "node": h.node, "operation": h.operation}
        record.update({key: value for key, value in context.items() if value})
        record["data"] = dict(h.data)
        return record
