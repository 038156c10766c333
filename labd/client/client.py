"""`Client`: one method a request."""

from __future__ import annotations

import json
import time

from labd.client.activity import ActivityClient
from labd.client.addresses import Addresses
from labd.client.checkpoints import Checkpoints
from labd.client.classes import Classes
from labd.client.connect import Connect
from labd.client.edits import Edits
from labd.client.guests import Guests
from labd.client.leases import Leases
from labd.client.links import Links
from labd.client.places import default_place, default_token
from labd.client.pools import Pools
from labd.client.screens import Screens
from labd.client.tokens import Tokens
from labd.client.transport import TIMEOUT, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO, Self

    from labd.client import types
    from labd.client.transport import Answer

_CHUNK = 1 << 20
_WAIT = 30.0  # seconds of one long poll


class Client:
    """A client of labd. It holds one connection: use it from one thread at a time.

    Every method raises the `LabdError` that the daemon raised, or `DaemonUnreachable`.

    Args:
        socket_path: Of the API's unix socket, or a URL; None: $LABD_URL, $LABD_SOCKET, else the
            socket in $LABD_ROOT/run or /run/labd that this caller may use.
        token: Bearer token, else $LABD_TOKEN; administrators at api.sock need none.
        timeout: Seconds without an answer after which labd counts as unreachable.
    """

    def __init__(
        self, socket_path: str | None = None, token: str = "", timeout: float = TIMEOUT
    ) -> None:
        self.transport = Transport(
            socket_path or default_place(), token or default_token(), timeout
        )
        self.activity = ActivityClient(self.transport)
        self.checkpoints = Checkpoints(self.transport)
        self.classes = Classes(self.transport)
        self.edits = Edits(self.transport)
        self.guests = Guests(self.transport)
        self.leases = Leases(self.transport)
        self.pools = Pools(self.transport)
        self.screens = Screens(self.transport)
        self.addresses = Addresses(self.transport)
        self.links = Links(self.transport)
        self.connect = Connect(self.transport)
        self.tokens = Tokens(self.transport)

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def _get(self, target: str, **query: object) -> Any:  # noqa: ANN401 -- JSON
        return self.transport.json("GET", f"/v1/{target}{_query(query)}")

    # host

    def info(self) -> dict[str, Any]:
        """Return version, host id, root, pid, accelerator, broker address and counts."""
        found: dict[str, Any] = self._get("info")
        return found

    def doctor(self) -> list[types.Finding]:
        """Return what labd found out about its host."""
        found: list[types.Finding] = self._get("doctor")["findings"]
        return found

    def usage(self, lab: str = "") -> dict[str, Any]:
        """Return what the running nodes, of a lab or all, have taken so far, and the host."""
        found: dict[str, Any] = self._get(f"labs/{_part(lab)}/usage" if lab else "usage")
        return found

    def differences(self, *, repair: bool = False) -> list[types.Difference]:
        """Return where kernel, folders and inventory disagree, after repairing what can be."""
        answer = self.transport.json("POST", "/v1/fsck", {}) if repair else self._get("fsck")
        found: list[types.Difference] = answer["differences"]
        return found

    # templates

    def validate(
        self, text: str, file: str = "template", settings: Mapping[str, str] | None = None
    ) -> types.Compiled:
        """Compile a template; `TemplateError` has every problem with its place."""
        body = {"text": text, "file": file, "settings": dict(settings or {})}
        found: types.Compiled = self.transport.json("POST", "/v1/templates/validate", body)
        return found

    def template_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of templates."""
        found: dict[str, Any] = self._get("templates/schema")
        return found

    def template_parameters(self, text: str, file: str = "template") -> list[dict[str, Any]]:
        """Return the parameters that a template declares."""
        body = {"text": text, "file": file}
        found: list[dict[str, Any]] = self.transport.json("POST", "/v1/templates/parameters", body)[
            "parameters"
        ]
        return found

    def templates(self) -> list[types.TemplateBrief]:
        """Return the shipped templates."""
        found: list[types.TemplateBrief] = self._get("templates")["templates"]
        return found

    def template(self, name: str) -> types.Template:
        """Return a shipped template with its text."""
        found: types.Template = self._get(f"templates/{_part(name)}")
        return found

    # labs

    def labs(self) -> list[types.LabBrief]:
        """Return all labs with their nodes' states."""
        found: list[types.LabBrief] = self._get("labs")["labs"]
        return found

    def lab(self, lab: str) -> types.Lab:
        """Return one lab, whole."""
        found: types.Lab = self._get(f"labs/{_part(lab)}")
        return found

    def node(self, lab: str, node: str) -> types.Node:
        """Return one node."""
        found: types.Node = self._get(f"labs/{_part(lab)}/nodes/{_part(node)}")
        return found

    def node_lines(self, lab: str, node: str, after: int = 0) -> list[types.LogLine]:
        """Return what a node and its QEMU said, by time; console lines behind a position."""
        found: list[types.LogLine] = self._get(
            f"labs/{_part(lab)}/nodes/{_part(node)}/lines", after=after
        )["lines"]
        return found

    def node_log(self, lab: str, node: str) -> bytes:
        """Return what is kept of a node's serial output, at most 1 MiB."""
        return self.transport.raw("GET", f"/v1/labs/{_part(lab)}/nodes/{_part(node)}/log")

    def up(
        self,
        lab: str,
        text: str,
        *,
        file: str = "template",
        settings: Mapping[str, str] | None = None,
        keep: bool = False,
        force: bool = False,
        timeout: float | None = None,
        lease: Mapping[str, object] | None = None,
    ) -> types.Operation:
        """Begin to bring a lab up to what a template says; `timeout` in seconds.

        `lease` has `seconds` or `until`, and `keep` and `warn` when they shall be others.
        """
        body = {
            "text": text,
            "file": file,
            "settings": dict(settings or {}),
            "keep": keep,
            "force": force,
            "timeout": timeout,
            "lease": None if lease is None else dict(lease),
        }
        found: types.Operation = self.transport.json("PUT", f"/v1/labs/{_part(lab)}", body)
        return found

    def plan(
        self,
        lab: str,
        text: str,
        *,
        file: str = "template",
        settings: Mapping[str, str] | None = None,
    ) -> list[types.Change]:
        """Return what `up` would do."""
        body = {"text": text, "file": file, "settings": dict(settings or {})}
        found: list[types.Change] = self.transport.json(
            "POST", f"/v1/labs/{_part(lab)}/plan", body
        )["changes"]
        return found

    def act(
        self,
        action: types.ActionName,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> types.Operation:
        """Begin to do something to a lab or some of its nodes; `grace` in seconds."""
        body = {"action": action, "nodes": list(nodes), "force": force, "grace": grace}
        found: types.Operation = self.transport.json("POST", f"/v1/labs/{_part(lab)}/actions", body)
        return found

    # operations

    def operations(self, limit: int = 100) -> list[types.Operation]:
        """Return operations, the newest first."""
        found: list[types.Operation] = self._get("operations", limit=limit)["operations"]
        return found

    def operation(self, id: str, wait: float = 0.0) -> types.Operation:
        """Return an operation; `wait`: when it has ended, or after that many seconds (<= 60)."""
        found: types.Operation = self._get(f"operations/{_part(id)}", wait=wait or None)
        return found

    def wait_operation(self, id: str, timeout: float | None = None) -> types.Operation:
        """Return an operation when it has ended; it is still `running` after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT if end is None else max(0.0, min(_WAIT, end - time.monotonic()))
            found = self.operation(id, left)
            if found["state"] != "running" or (end is not None and time.monotonic() >= end):
                return found

    @staticmethod
    def check_operation(operation: types.Operation) -> types.Operation:
        """Return an operation unless it has failed.

        Raises:
            LabdError: With what it failed.
        """
        if operation["state"] == "failed":
            from labd.client.errors import from_operation

            raise from_operation(operation["error"] or {})
        return operation

    # events

    def events(
        self, after: int | None = None, limit: int = 500, *, lab: str = "", type: str = ""
    ) -> types.EventPage:
        """Return one page of events; `type` such as `node.crashed` or `node.*`.

        Raises:
            EventsPruned: Events after `after` are not kept any more.
        """
        found: types.EventPage = self._get(
            "events", after=after, limit=limit, lab=lab or None, type=type or None
        )
        return found

    def follow(
        self, after: int | None = None, *, lab: str = "", type: str = ""
    ) -> Generator[types.Event, None, None]:
        """Return events as they come, after `after` or from now on; it ends when labd stops."""
        return self.lines(self.transport.stream(self.follow_target(after, lab=lab, type=type)))

    @staticmethod
    def follow_target(after: int | None, *, lab: str, type: str) -> str:
        """Return the request target of a stream of events."""
        query = {"follow": "true", "after": after, "lab": lab, "type": type}
        return f"/v1/events{_query(query)}"

    def lines(self, answer: Answer) -> Generator[types.Event, None, None]:
        """Decode a stream of JSON Lines and close it at the end."""
        try:
            while line := answer.readline():
                if line.strip():
                    yield json.loads(line)
        except (OSError, ValueError) as error:
            from labd.client.errors import unreachable

            raise unreachable(self.transport.path, error) from error
        finally:
            answer.close()

    # images

    def images(self) -> list[types.Image]:
        """Return all images."""
        found: list[types.Image] = self._get("images")["images"]
        return found

    def image(self, image: str) -> types.Image:
        """Return one image, with `used_by`."""
        found: types.Image = self._get(f"images/{_part(image)}")
        return found

    def upload_image(
        self,
        image: str,
        files: Sequence[BinaryIO],
        *,
        length: int | None = None,
        progress: Callable[[int], None] | None = None,
        **query: object,
    ) -> types.Image:
        """Send an image.

        Args:
            image: Its name.
            files: One after the other: a disk, or a kernel and its initramfs.
            length: Bytes in all, when known.
            progress: Called with the bytes of each piece that was sent.
            query: `format`, `sha256`, `kernel_size`, `cmdline`, `ready`, `source`.
        """

        def chunks() -> Iterator[bytes]:
            for file in files:
                while chunk := file.read(_CHUNK):
                    yield chunk
                    if progress is not None:
                        progress(len(chunk))

        found: types.Image = self.transport.upload(
            f"/v1/images/{_part(image)}{_query(query)}", chunks(), length
        )
        return found

    def import_image(
        self, image: str, url: str, *, format: str | None = None, sha256: str = ""
    ) -> types.Operation:
        """Have labd fetch an image from a URL."""
        body = {"name": image, "url": url, "format": format, "sha256": sha256}
        found: types.Operation = self.transport.json("POST", "/v1/images", body)
        return found

    def build_image(self, recipe: str, image: str = "") -> types.Operation:
        """Have labd build an image from a recipe."""
        body = {"recipe": recipe, "name": image}
        found: types.Operation = self.transport.json("POST", "/v1/image-builds", body)
        return found

    def remove_image(self, image: str) -> None:
        """Remove an image that nothing needs."""
        self.transport.raw("DELETE", f"/v1/images/{_part(image)}")

    # profiles

    def profiles(self) -> list[types.Profile]:
        """Return all profiles."""
        found: list[types.Profile] = self._get("profiles")["profiles"]
        return found

    def profile(self, profile: str) -> types.Profile:
        """Return one profile."""
        found: types.Profile = self._get(f"profiles/{_part(profile)}")
        return found

    def add_profile(self, profile: str, **fields: object) -> types.Profile:
        """Add a profile: `image`, and `vcpus`, `memory`, `disk`, `firmware`, `description`."""
        found: types.Profile = self.transport.json("PUT", f"/v1/profiles/{_part(profile)}", fields)
        return found

    def remove_profile(self, profile: str) -> None:
        """Remove a profile that no lab names."""
        self.transport.raw("DELETE", f"/v1/profiles/{_part(profile)}")

    # plugins

    def plugins(self) -> list[types.Plugin]:
        """Return all installed plugins."""
        found: list[types.Plugin] = self._get("plugins")["plugins"]
        return found

    def set_plugin(
        self, plugin: str, *, enabled: bool, settings: Mapping[str, object] | None = None
    ) -> types.Plugin:
        """Enable a plugin with settings, or disable it."""
        body = {"enabled": enabled, "settings": dict(settings or {})}
        found: types.Plugin = self.transport.json("PUT", f"/v1/plugins/{_part(plugin)}", body)
        return found

    def plugin_log(self, plugin: str) -> bytes:
        """Return what is kept of a plugin's output, at most 1 MiB."""
        return self.transport.raw("GET", f"/v1/plugins/{_part(plugin)}/log")


def _part(text: str) -> str:
    """Return one part of a path, quoted (RFC 3986)."""
    from urllib.parse import quote  # http.client has imported it already

    return quote(text, safe="") or "%20"


def _query(values: Mapping[str, object]) -> str:
    from urllib.parse import urlencode

    given = {key: value for key, value in values.items() if value is not None and value != ""}
    return f"?{urlencode(given)}" if given else ""
