"""Plugins of a whole labd at work: the recorder, the webhook, and the one of the documentation."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.harness import REPO, Daemon, Json, end, is_alive, until
from tests.system.plugin_root import TEMPLATE, enable, folder, hears, pids, secret, with_plugins


@pytest.fixture
def installed(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    return lambda **manifests: with_plugins(make_daemon, tmp_path / "closed", manifests)


def recorded(daemon: Daemon) -> list[Json]:
    """Return what the recorder has written; each file must be in order, repetitions go."""
    found: dict[int, Json] = {}
    for path in folder(daemon, "recorder").rglob("*.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        seqs = [event["seq"] for event in events]
        assert seqs == sorted(seqs), path
        assert len(seqs) - len(set(seqs)) <= 2, "an event is repeated only where it was killed"
        found |= {event["seq"]: event for event in events}
    return [found[seq] for seq in sorted(found)]


def test_the_recorder_has_every_event_whoever_was_killed(
    installed: Callable[..., Daemon],
) -> None:
    daemon = installed()
    first = enable(daemon, "recorder")
    hears(daemon, "recorder")
    begin = int(daemon.lab("plugin", "logs", "recorder").split("hears events after ")[1].split()[0])
    daemon.lab("up", TEMPLATE, "--name", "boot")
    end(first)
    daemon.lab("restart", "boot", "--force")
    until(lambda: recorded(daemon) == daemon.events(begin), "all, though it was killed", 20)
    (second,) = pids(daemon, "recorder")
    assert second != first

    daemon.kill()
    (machine,) = daemon.qemus()
    end(machine)  # what nobody sees at the time is told when labd is back
    until(lambda: not is_alive(second), "it ends with the daemon", 5)
    daemon.start()
    until(
        lambda: any(e["type"] == "io.labd.node.crashed" for e in daemon.events(begin)), "its crash"
    )
    daemon.lab("destroy", "boot", "--force")
    until(lambda: recorded(daemon) == daemon.events(begin), "all, though labd was killed", 20)


class Receiver(BaseHTTPRequestHandler):
    """Answers 500 twice, then takes what comes."""

    got: list[tuple[int, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = 500 if len(self.got) < 2 else 204
        self.got.append((code, dict(self.headers), body))
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("OneReceiver", (Receiver,), {"got": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook", kind
        finally:
            server.shutdown()
            thread.join()


def test_the_webhook_signs_and_tries_again(installed: Callable[..., Daemon]) -> None:
    daemon = installed()
    with receiver() as (url, seen):
        enable(daemon, "webhook", f"url={url}", "secret=s3cret", 'events=["node.*"]')
        hears(daemon, "webhook")
        daemon.lab("up", TEMPLATE, "--name", "boot")
        events = [e for e in daemon.events() if e["type"].startswith("io.labd.node.")]
        until(lambda: len(seen.got) == 2 + len(events), lambda: f"all come: {seen.got}")
    assert [code for code, _, _ in seen.got] == [500, 500] + [204] * len(events)
    assert [json.loads(body) for _, _, body in seen.got[2:]] == events
    assert {body for _, _, body in seen.got[:3]} == {seen.got[2][2]}, "the same, three times"
    for _, headers, body in seen.got:
        digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        assert headers["X-Labd-Signature"] == f"sha256={digest}"


def test_the_shell_of_the_documentation_starts_a_crashed_node(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    text = (REPO / "docs" / "plugins.md").read_text()
    files = dict(re.findall(r"`again/(plugin\.\w+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    assert len(files["plugin.sh"].splitlines()) <= 10
    daemon = installed(again=files["plugin.toml"])
    (tmp_path / "closed" / "again" / "plugin.sh").write_text(files["plugin.sh"])
    daemon.lab("up", TEMPLATE, "--name", "boot")
    daemon.lab("plugin", "enable", "again")
    until(lambda: any(is_subscriber(pid) for pid in pids(daemon, "again")), "it listens")
    (machine,) = daemon.qemus()
    end(machine)
    until(
        lambda: (
            daemon.qemus() not in ([], [machine]) and daemon.states("boot") == {"boot": "ready"}
        ),
        lambda: f"it is started again; {daemon.lab('plugin', 'logs', 'again')}",
    )
    assert '"kind":"start"' in daemon.lab("plugin", "logs", "again")
    words = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids(daemon, "again")]
    for file in ("token", "mqtt-password"):
        assert not any(secret(daemon, "again", file).encode() in word for word in words)


def is_subscriber(pid: int) -> bool:
    """Tell whether a process is a subscriber that is connected."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return name == "mosquitto_sub" and any(link.startswith("socket:") for link in links)


def test_the_watchdog_starts_a_killed_machine_until_its_limit(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    template = (REPO / TEMPLATE).read_text()
    policy = "    restart: {mode: on-failure, limit: 2, window: 5m}\n"
    (tmp_path / "kept.yaml").write_text(template.rstrip() + "\n" + policy)
    daemon = installed()
    enable(daemon, "watchdog", "first-delay=0.1", "max-delay=1s")
    hears(daemon, "watchdog")
    daemon.lab("up", str(tmp_path / "kept.yaml"), "--name", "boot")
    for _ in range(2):
        (machine,) = daemon.qemus()
        end(machine)
        until(
            partial(runs_anew, daemon, machine),
            lambda: f"it is started again: {daemon.lab('plugin', 'logs', 'watchdog')}",
        )
    (machine,) = daemon.qemus()
    end(machine)
    until(
        lambda: (
            "boot/boot failed again after 2 restarts" in daemon.lab("plugin", "logs", "watchdog")
        ),
        "it gives up",
    )
    assert daemon.states("boot") == {"boot": "crashed"}
    # What a person stops stays stopped, and what a person starts runs.
    daemon.lab("start", "boot")
    daemon.lab("stop", "boot", "--force")
    assert daemon.states("boot") == {"boot": "stopped"}
    assert daemon.qemus() == []


def runs_anew(daemon: Daemon, before: int) -> bool:
    """Tell whether the machine is ready in another process than before."""
    return daemon.qemus() not in ([], [before]) and daemon.states("boot") == {"boot": "ready"}
