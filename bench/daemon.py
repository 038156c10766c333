"""A daemon on a scratch root for the time of a benchmark, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.system.harness import Daemon, end

CONFIG = '[daemon]\naccel = "tcg"\n'


@contextmanager
def scratch_daemon(config: str = CONFIG) -> Iterator[Daemon]:
    """Start a daemon, and leave nothing of it."""
    root = Path(tempfile.mkdtemp(prefix="labd-bench-"))
    root.chmod(0o755)
    daemon = Daemon(root, config)
    try:
        daemon.start()
        try:
            yield daemon
        except BaseException:
            with suppress(Exception):  # the error is worth more than that of a dead daemon
                sweep(daemon)
            raise
        sweep(daemon)
    finally:
        daemon.stop()
        for pid in daemon.qemus():
            end(pid)
        shutil.rmtree(root)


def sweep(daemon: Daemon, *but: str) -> None:
    """Destroy all labs, whatever they do, but those named."""
    for lab in daemon.json("ls")["labs"]:
        if lab["name"] not in but:
            daemon.lab("destroy", lab["name"], "--force")


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("labd", timeout=300)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(300)
        self.sock.connect(str(self._path))


class Stream:
    """Requests to a daemon, and its events from now on."""

    def __init__(self, daemon: Daemon) -> None:
        self._path = daemon.root / "run" / "api.sock"
        self._asking = _Connection(self._path)
        self._following = _Connection(self._path)

    def __enter__(self) -> Self:
        last = self.ask("GET", "/v1/events?limit=1")["last"]
        self._following.request("GET", f"/v1/events?after={last}&follow=true")
        self._response = self._following.getresponse()
        return self

    def __exit__(self, *_: object) -> None:
        self._following.close()
        self._asking.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield events as they come."""
        while line := self._response.readline():
            if line.strip():
                yield json.loads(line)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return its JSON."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if data else {}
        self._asking.request(method, path, body=data, headers=headers)
        answer = self._asking.getresponse()
        found = json.loads(answer.read())
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {found}")
        assert isinstance(found, dict)
        return found

    def finish(self, operation: dict[str, Any]) -> None:
        """Wait until an operation has succeeded."""
        while operation["state"] == "running":
            operation = self.ask("GET", f"/v1/operations/{operation['id']}?wait=60")
        if operation["state"] != "succeeded":
            raise AssertionError(f"operation failed: {operation}")
