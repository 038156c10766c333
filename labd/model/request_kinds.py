"""The requests of each kind of operation. A field that changes needs a new stored version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from labd.model.checkpoints import SaveMode
from labd.model.records import Wanted
from labd.model.requests import OperationKind, Request, register
from labd.model.states import NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBefore:
    """The intent before an operation.

    Attributes:
        lab: Of the lab.
        nodes: Node -> its intent.
    """

    lab: Wanted
    nodes: Mapping[str, Wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting(Request):
    """Base of requests that start nodes, and are taken back if they fail.

    Attributes:
        memory: Node -> bytes of memory that it was promised.
        before: Names of the nodes that ran before, which the undoing leaves alone.
        was: The intent to go back to; None for a lab that is new.
        undoing: Why the operation failed, from when its undoing was begun; else empty.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    was: WantedBefore | None = None
    undoing: str = ""

    @property
    def makes_lab(self) -> bool:
        """True if the lab is new, and goes if the operation fails."""
        return False

    @property
    def only(self) -> tuple[str, ...] | None:
        """The names of the nodes to start; None for all of the lab."""
        return None


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class UpRequest(Starting):
    """`lab up`.

    Attributes:
        keep: Leave everything as it is if it fails.
        force: Nodes that must be replaced are powered off.
        timeout: Seconds until the lab must be up; None for no limit.
        new: There was no such lab before.
    """

    kind: ClassVar = OperationKind.UP
    keep: bool = False
    force: bool = False
    timeout: float | None = None
    new: bool = False

    @property
    def makes_lab(self) -> bool:
        """True if there was no such lab before."""
        return self.new


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest(Starting):
    """An edit of a lab without a template.

    Attributes:
        starts: Names of the nodes to start.
    """

    kind: ClassVar = OperationKind.EDIT
    starts: tuple[str, ...] = ()

    @property
    def only(self) -> tuple[str, ...]:
        """The nodes to start."""
        return self.starts


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest(Starting):
    """`lab start`.

    Attributes:
        nodes: Names of the nodes that were asked for.
        starts: Names of the nodes to start: those, and what they depend on.
    """

    kind: ClassVar = OperationKind.START
    nodes: tuple[str, ...]
    starts: tuple[str, ...]

    @property
    def only(self) -> tuple[str, ...]:
        """The nodes to start."""
        return self.starts


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRequest(Starting):
    """`lab restart`.

    Attributes:
        nodes: Names of the nodes to stop.
        starts: Names of the nodes to start then.
        force: Power off without asking the guest.
        grace: Seconds that a guest has to obey.
    """

    kind: ClassVar = OperationKind.RESTART
    nodes: tuple[str, ...]
    starts: tuple[str, ...]
    force: bool = False
    grace: float = 20.0

    @property
    def only(self) -> tuple[str, ...]:
        """The nodes to start."""
        return self.starts


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest(Starting):
    """`lab fork`: a new lab from a checkpoint.

    Attributes:
        checkpoint: Key.
        settings: What its guests find in their environment.
    """

    kind: ClassVar = OperationKind.FORK
    checkpoint: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def makes_lab(self) -> bool:
        """A fork is always a new lab."""
        return True


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest(Request):
    """A lab, or some of its nodes, back to a checkpoint.

    Attributes:
        checkpoint: Key.
        nodes: Names.
    """

    kind: ClassVar = OperationKind.RESTORE
    checkpoint: str
    nodes: tuple[str, ...] = ()


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequest(Request):
    """`lab checkpoint save`.

    Attributes:
        name: Of the checkpoint.
        mode: What becomes of the lab.
        message: A note of the user's.
        key: Of the checkpoint.
        was: Node -> its state when it was asked for.
    """

    kind: ClassVar = OperationKind.CHECKPOINT
    name: str
    mode: SaveMode
    message: str = ""
    key: str = ""
    was: Mapping[str, NodeState] = field(default_factory=dict)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class DownRequest(Request):
    """`lab down`.

    Attributes:
        force: Power off without asking the guests.
        grace: Seconds that a guest has to obey.
    """

    kind: ClassVar = OperationKind.DOWN
    force: bool = False
    grace: float = 20.0


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class DestroyRequest(Request):
    """`lab destroy`, which asks no guest."""

    kind: ClassVar = OperationKind.DESTROY


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest(Request):
    """`lab stop` of some nodes.

    Attributes:
        nodes: Names.
        force: Power off without asking the guests.
        grace: Seconds that a guest has to obey.
    """

    kind: ClassVar = OperationKind.STOP
    nodes: tuple[str, ...]
    force: bool = False
    grace: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling(Request):
    """Base of requests that tell QEMU one thing.

    Attributes:
        nodes: Names.
    """

    nodes: tuple[str, ...]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequest(Telling):
    """`lab pause`."""

    kind: ClassVar = OperationKind.PAUSE


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest(Telling):
    """`lab resume`."""

    kind: ClassVar = OperationKind.RESUME


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest(Telling):
    """`lab reset --button`."""

    kind: ClassVar = OperationKind.RESET


ActionRequest = StartRequest | RestartRequest | StopRequest | DownRequest | DestroyRequest | Telling
_TELLING: Mapping[OperationKind, type[Telling]] = {
    OperationKind.PAUSE: PauseRequest,
    OperationKind.RESUME: ResumeRequest,
    OperationKind.RESET: ResetRequest,
}


def action_request(kind: OperationKind, *, force: bool, grace: float) -> ActionRequest:
    """Return the request of an action whose nodes are not looked up yet.

    Raises:
        KeyError: It is none.
    """
    if kind is OperationKind.START:
        return StartRequest(nodes=(), starts=())
    if kind is OperationKind.RESTART:
        return RestartRequest(nodes=(), starts=(), force=force, grace=grace)
    if kind is OperationKind.STOP:
        return StopRequest(nodes=(), force=force, grace=grace)
    if kind is OperationKind.DOWN:
        return DownRequest(force=force, grace=grace)
    if kind is OperationKind.DESTROY:
        return DestroyRequest()
    return _TELLING[kind](nodes=())


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageImportRequest(Request):
    """`lab image import URL`.

    Attributes:
        name: Of the image.
        url: Where it is.
    """

    kind: ClassVar = OperationKind.IMAGE_IMPORT
    name: str
    url: str


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBuildRequest(Request):
    """`lab image build`.

    Attributes:
        name: Of the image.
        recipe: Of labd.
    """

    kind: ClassVar = OperationKind.IMAGE_BUILD
    name: str
    recipe: str
