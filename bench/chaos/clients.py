"""Clients of labd that do what a plan says, each in a thread of its own."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from bench.chaos.plan import Act
from labd.client.client import Client
from labd.client.types import ActionName
from labd.images.bootsector import boot_sector
from labd.model.errors import LabdError

_WAIT: Final = 20.0  # seconds that a client waits for its operation
_GUEST = """\
    image: bootsector
    machine: pc
    disk_bus: ide
    memory: 16 MiB
    accel: tcg
"""
_ACTIONS: Final[tuple[ActionName, ...]] = (
    "down", "destroy", "start", "stop", "restart", "pause", "resume", "reset",
)  # fmt: skip


def template(lab: str, variant: int) -> str:
    """Return the template of a lab; its variants have other nodes, networks and sizes."""
    if lab == "t":
        return f"name: {lab}\nnodes: {{n-0: {{image: tiny, memory: {128 + 32 * variant} MiB}}}}\n"
    nic = "    nics: {eth0: {network: lan, model: e1000}}\n"
    nodes = "".join(f"  n-{number}:\n{_GUEST}{nic}" for number in range(1 + variant))
    served = "subnet: 10.0.0.0/24, dhcp: true" if lab != "c" else ""
    more = ", more: {}" if variant == 2 else ""
    return f"name: {lab}\nnetworks: {{lan: {{{served}}}{more}}}\nnodes:\n{nodes}"


class Clients:
    """Some clients; `give` each what it shall do, then `close`.

    Attributes:
        answers: (verb, code) -> how often; the code is `ok` where it was not refused.
        problems: Answers that no request deserves.
    """

    def __init__(self, path: str, count: int) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self._path = path
        self._acts: list[queue.Queue[Act | None]] = [queue.Queue() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._work, args=(acts,), daemon=True) for acts in self._acts
        ]
        for thread in self._threads:
            thread.start()

    def give(self, act: Act) -> None:
        """Have a client do something when it has done what it was given before."""
        self._acts[act.client].put(act)

    def close(self, seconds: float) -> None:
        """Let them finish; what they have not begun by then is left."""
        for acts in self._acts:
            # The client takes from it as well: a plain `get` may find it empty and wait for ever.
            with contextlib.suppress(queue.Empty):
                while acts.qsize() > 1:
                    acts.get_nowait()
            acts.put(None)
        for thread in self._threads:
            thread.join(seconds)
            if thread.is_alive():
                self.problems.append(f"a client got no answer within {seconds:g} s")

    def _work(self, acts: queue.Queue[Act | None]) -> None:
        while (act := acts.get()) is not None:
            code = self._answer(act)
            self.answers[act.verb, code] += 1

    def _answer(self, act: Act) -> str:
        try:
            with Client(self._path, timeout=60.0) as client:
                self._do(client, act)
        except LabdError as error:
            if error.code == "internal" or "HTTP status 5" in error.message:
                self.problems.append(f"{act}: {error.message}")
            return error.code
        return "ok"

    def _do(self, client: Client, act: Act) -> None:
        if act.verb == "drop":
            drop(self._path, act)
            return
        asked = _VERBS[act.verb](client, act)
        for operation in asked if isinstance(asked, list) else [asked]:
            if isinstance(operation, dict) and str(operation.get("id", "")).startswith("op-"):
                Client.check_operation(client.wait_operation(operation["id"], _WAIT))


def drop(path: str, act: Act) -> None:
    """Send a request, and go: at once, or when half of it is sent."""
    body = json.dumps({"text": template(act.lab, act.variant), "file": "t"}).encode()
    head = f"PUT /v1/labs/{act.lab} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(5)
        try:
            line.connect(path)
            line.sendall(request[: len(request) // (1 + act.variant)])
        except (OSError, http.client.HTTPException):
            return


def _act(name: ActionName) -> Callable[[Client, Act], object]:
    def ask(client: Client, act: Act) -> object:
        # Most of the time of a node only; boot sectors answer no request to power off.
        nodes = [f"n-{act.node}"] if act.variant and name not in {"down", "destroy"} else []
        lab = act.lab if act.variant else (act.lab, act.fork)[act.node % 2]
        return client.act(name, lab, nodes, force=act.node != 1, grace=0.5)

    return ask


def _start_class(client: Client, act: Act) -> object:
    students: list[dict[str, Any]] = [{"name": name} for name in ("ann", "bob")[: 1 + act.node % 2]]
    return client.classes.start("k", act.checkpoint, students)


def _wires(client: Client, act: Act) -> object:
    if act.variant == 2:
        return client.links.reset(act.lab)
    return client.links.set(act.lab, "lan", down=act.node == 0, rate=1_000_000)


def _attach(client: Client, act: Act) -> object:
    return client.edits.attach_disk(act.lab, f"n-{act.node}", f"d{act.variant}", 1 << 20)


_VERBS: Final[dict[str, Callable[[Client, Act], object]]] = {
    **{name: _act(name) for name in _ACTIONS},
    "up": lambda c, a: c.up(a.lab, template(a.lab, a.variant), force=a.node == 0),
    "attach-disk": _attach,
    "save": lambda c, a: c.checkpoints.save(a.lab, a.checkpoint, mode="live" if a.node else "stop"),
    "remove-checkpoint": lambda c, a: c.checkpoints.remove(a.checkpoint),
    "fork": lambda c, a: c.checkpoints.fork(a.checkpoint, a.fork),
    "restore": lambda c, a: c.checkpoints.restore(a.lab, a.checkpoint),
    "start-class": _start_class,
    "destroy-class": lambda c, _: c.classes.destroy("k"),
    "wires": _wires,
    "exec": lambda c, _: c.guests.execute("t", "n-0", ["true"], timeout=10),
    "events": lambda c, a: c.events(a.node * 10),
    "ls": lambda c, _: c.labs(),
    "status": lambda c, a: c.lab(a.lab),
    "import-image": lambda c, a: c.upload_image(
        a.image, [io.BytesIO(boot_sector() + bytes(512 * (1 + a.variant)))], format="raw"
    ),
    "remove-image": lambda c, a: c.remove_image(a.image),
    "enable-plugin": lambda c, _: c.set_plugin("recorder", enabled=True),
    "disable-plugin": lambda c, _: c.set_plugin("recorder", enabled=False),
    # Now and then one that ends at once, so that labd itself stops and destroys the lab.
    "set-lease": lambda c, a: c.leases.set(
        a.lab, {"seconds": (5, 60, 3600)[a.variant], "keep": 10}
    ),
    "cancel-lease": lambda c, a: c.leases.cancel(a.lab),
    "fsck": lambda c, _: c.differences(),
}
