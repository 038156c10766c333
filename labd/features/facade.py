"""What the API may ask of the engine. `labd.features.engine.Engine` is the one implementation.

Requests that change a lab write the intent, start an operation and return it at once; its outcome
comes by `wait_operation` or by the events of the operation. All raise `LabdError`s only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from labd.drivers.node.port import Console
from labd.features.access.views import AccessApi
from labd.features.activity.views import ActivityApi
from labd.features.capture.views import CapturesApi
from labd.features.checkpoints.views import CheckpointsApi
from labd.features.classes.views import ClassesApi
from labd.features.connect.views import ConnectApi
from labd.features.guests.views import GuestsApi
from labd.features.labs.edit_views import EditsApi
from labd.features.leases.views import LeasesApi, LeaseView
from labd.features.links.views import LinksApi
from labd.features.screens.views import ScreensApi
from labd.features.serving.views import AddressesApi
from labd.features.usage.views import UsageApi
from labd.features.warm.views import WarmPoolsApi
from labd.host.timelog import LogLine
from labd.model.differences import Difference
from labd.model.events import Event
from labd.model.lab_leases import LeaseAsk
from labd.model.names import NodeRef
from labd.model.records import (
    LabRecord,
    NodeRecord,
    OperationKind,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)
from labd.model.specs import Image, ImageFormat, LabSpec, Profile
from labd.model.states import NetworkState, PluginState


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of a plan, in the order in which it would be done.

    Attributes:
        action: `create`, `remove`, `replace` (stop, rebuild, start), `update` (no restart needed)
            or `start`.
        kind: `lab`, `network` or `node`.
        name: Of the network or node.
        why: The fields that differ, such as `memory: 128 MiB -> 256 MiB`; empty for the obvious.
    """

    action: str
    kind: str
    name: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    """A network of a lab and how it is."""

    name: str
    bridge: str
    state: NetworkState
    subnet: str
    uplink: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabView:
    """A lab with all that `lab status` shows."""

    lab: LabRecord
    nodes: tuple[NodeRecord, ...]
    networks: tuple[NetworkView, ...]
    operation: OperationRecord | None
    published: tuple[PublicationRecord, ...] = ()
    lease: LeaseView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginView:
    """A plugin that is installed.

    Attributes:
        record: None when it was never enabled.
        description: From its manifest.
        state: Of its process.
        restarts: Since it was enabled or the daemon started.
        problem: Why it cannot run, or empty.
    """

    name: str
    description: str
    version: str
    events: tuple[str, ...]
    scopes: tuple[str, ...]
    settings_schema: Mapping[str, object]
    record: PluginRecord | None
    state: PluginState
    restarts: int = 0
    problem: str = ""


class EngineApi(Protocol):
    """Everything that can be asked."""

    @property
    def access(self) -> AccessApi:
        """Who may do what."""

    @property
    def checkpoints(self) -> CheckpointsApi:
        """Frozen labs, and labs that start from them."""

    @property
    def pools(self) -> WarmPoolsApi:
        """Forks that stand ready before somebody asks for them."""

    @property
    def classes(self) -> ClassesApi:
        """Labs for everybody on a roster."""

    @property
    def edits(self) -> EditsApi:
        """Changes of labs without a template."""

    @property
    def leases(self) -> LeasesApi:
        """Deadlines of labs."""

    @property
    def usage(self) -> UsageApi:
        """What nodes take of the host."""

    @property
    def guests(self) -> GuestsApi:
        """Commands and files in guests."""

    @property
    def screens(self) -> ScreensApi:
        """Pictures of nodes' screens, their keyboards and their viewers."""

    @property
    def activity(self) -> ActivityApi:
        """How long labs have been idle."""

    @property
    def addresses(self) -> AddressesApi:
        """The addresses that nodes really have."""

    @property
    def connect(self) -> ConnectApi:
        """Ways into labs."""

    @property
    def captures(self) -> CapturesApi:
        """Packets on their way."""

    @property
    def links(self) -> LinksApi:
        """Carriers and impairments of the wires of labs."""

    # labs
    async def up(
        self,
        name: str,
        spec: LabSpec,
        *,
        keep: bool = False,
        force: bool = False,
        timeout: float | None = None,
        lease: LeaseAsk | None = None,
    ) -> OperationRecord:
        """Bring a lab up: create it, start what is stopped, or apply an edited spec.

        Nodes that an edit restarts are asked to power off first, unless `force`. With `lease`, it
        has this one from now on.
        """

    async def plan(self, name: str, spec: LabSpec) -> Sequence[Change]:
        """Tell what `up` would do; empty when nothing."""

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        """Do DOWN, DESTROY, START, STOP, RESTART, PAUSE, RESUME or RESET to a lab or some nodes.

        DOWN and DESTROY take the whole lab. `force` powers off without asking the guest; `grace`
        is how many seconds a guest has to obey.
        """

    async def labs(self) -> Sequence[tuple[LabRecord, Sequence[NodeRecord]]]:
        """Return all labs with their nodes."""

    async def lab(self, name: str) -> LabView:
        """Return one lab."""

    async def node(self, ref: NodeRef) -> NodeRecord:
        """Return one node."""

    def console(self, ref: NodeRef) -> AbstractAsyncContextManager[Console]:
        """Attach to a serial line."""

    async def log_lines(self, ref: NodeRef, after: int) -> Sequence[tuple[str, LogLine]]:
        """Return what a node said since its start, with times: source and line, by time.

        The source is `console` (behind the position `after`) or `qemu` (its stderr, all).
        """

    async def console_log(self, ref: NodeRef) -> bytes:
        """Return what is kept of the serial output of a node, at most 1 MiB."""

    # operations and events
    async def operations(self, *, limit: int = 100) -> Sequence[OperationRecord]:
        """Return operations, the newest first."""

    async def operation(self, id: str) -> OperationRecord:
        """Return one operation."""

    async def wait_operation(self, id: str, timeout: float) -> OperationRecord:
        """Return it when it has ended, or as it is after `timeout` seconds."""

    async def events(self, after: int, limit: int) -> Sequence[Event]:
        """Return events after a seq."""

    async def event_bounds(self) -> tuple[int, int]:
        """Return the lowest kept and the highest seq (1, 0 when there is none)."""

    async def wait_events(self, after: int) -> int:
        """Return as soon as there are events after `after`."""

    # images and profiles
    async def images(self) -> Sequence[Image]:
        """Return all images."""

    async def image(self, name: str) -> tuple[Image, Sequence[str]]:
        """Return an image and the `LAB/NODE`s and profiles that use it."""

    async def receive_image(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str,
        source: str,
        kernel_size: int | None,
        cmdline: str,
        ready_pattern: str,
    ) -> Image:
        """Take an upload (see `Images.receive`)."""

    async def import_image(
        self, name: str, url: str, *, format: ImageFormat | None, sha256: str
    ) -> OperationRecord:
        """Take a URL."""

    async def build_image(self, recipe: str, name: str) -> OperationRecord:
        """Build a recipe."""

    async def remove_image(self, name: str) -> None:
        """Remove an image; InUse while anything needs it."""

    async def profiles(self) -> Sequence[Profile]:
        """Return all profiles."""

    async def profile(self, name: str) -> Profile:
        """Return one profile."""

    async def add_profile(self, profile: Profile) -> Profile:
        """Add a profile; Conflict when the name is taken by another one."""

    async def remove_profile(self, name: str) -> None:
        """Remove a profile; InUse while a lab names it."""

    # plugins
    async def plugins(self) -> Sequence[PluginView]:
        """Return all installed plugins."""

    async def enable_plugin(self, name: str, settings: Mapping[str, object]) -> PluginView:
        """Validate settings, then keep the plugin running."""

    async def disable_plugin(self, name: str) -> PluginView:
        """Stop it."""

    async def plugin_log(self, name: str) -> bytes:
        """Return the kept output of the plugin, at most 1 MiB."""

    # host
    async def differences(self, *, repair: bool) -> Sequence[Difference]:
        """Return where kernel, folders and inventory disagree; see `features.fsck.service`."""

    async def findings(self) -> Sequence[Mapping[str, str]]:
        """Return what `lab doctor` shows: name, level (ok, warn, fail), text, advice."""

    async def info(self) -> Mapping[str, object]:
        """Return version, host id, root, pid, accelerator, broker address, counts."""
