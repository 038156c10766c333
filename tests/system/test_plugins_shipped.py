"""The shipped plugins, each as its own process behind a real broker and the real API."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labd.model.activity import Source
from labd.model.errors import ConfigError
from labd.model.events import EventType
from labd.model.records import OperationKind
from labd.model.specs import RestartMode, RestartPolicy
from labd.model.states import NodeState
from tests.system.plugin_testbed import PluginTestbed
from tests.system.plugin_testbed import testbed as open_testbed

ON_FAILURE = RestartPolicy(mode=RestartMode.ON_FAILURE, limit=3, window=60)
ALWAYS = RestartPolicy(mode=RestartMode.ALWAYS, limit=3, window=60)
START, RESTART = OperationKind.START, OperationKind.RESTART


@pytest.fixture
async def testbed() -> AsyncIterator[PluginTestbed]:
    async with open_testbed() as made:
        yield made


async def watchdog(testbed: PluginTestbed, policy: RestartPolicy, **settings: object) -> None:
    """Have a lab with a policy, and a watchdog that is quick."""
    await testbed.up(policy)
    await testbed.start(
        "watchdog", **{"first-delay": 0.05, "max-delay": 0.2, "patience": 0.3, **settings}
    )
    await testbed.hears("watchdog")


async def is_ready(testbed: PluginTestbed) -> None:
    await testbed.until(
        lambda: testbed.is_in(NodeState.READY),
        lambda: f"the node is ready; watchdog: {testbed.said('watchdog')}",
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (NodeState.CRASHED, START),
        (NodeState.PANICKED, RESTART),
        (NodeState.UNRESPONSIVE, RESTART),
    ],
)
async def test_a_failed_node_is_started_again(
    testbed: PluginTestbed, state: NodeState, kind: OperationKind
) -> None:
    await watchdog(testbed, ON_FAILURE)
    await testbed.fails(state)
    await is_ready(testbed)
    await asyncio.sleep(0.3)
    assert await testbed.asked(kind) == 1
    assert await testbed.asked(START, RESTART) == 1


async def test_a_node_that_answers_in_time_is_left_alone(testbed: PluginTestbed) -> None:
    await watchdog(testbed, ON_FAILURE, patience=0.5)
    await testbed.fails(NodeState.UNRESPONSIVE)
    testbed.daemon.host.recover(await testbed.daemon.key("a"))
    await asyncio.sleep(1)
    assert await testbed.asked(START, RESTART) == 0


@pytest.mark.parametrize(
    ("policy", "cause", "starts"),
    [
        (ALWAYS, "guest-poweroff", 1),
        (ALWAYS, "requested", 0),
        (ON_FAILURE, "guest-poweroff", 0),
        (RestartPolicy(), "guest-poweroff", 0),
    ],
)
async def test_a_guest_that_powers_itself_off(
    testbed: PluginTestbed, policy: RestartPolicy, cause: str, starts: int
) -> None:
    await watchdog(testbed, policy)
    if cause == "requested":
        await testbed.act(OperationKind.STOP, "a")
    else:
        await testbed.fails(NodeState.STOPPED)
    (stopped,) = await testbed.happened(EventType.NODE_STOPPED)
    assert stopped.draft.data["cause"] == cause
    await asyncio.sleep(1)
    assert await testbed.asked(START, RESTART) == starts


async def test_without_a_policy_nothing_is_done(testbed: PluginTestbed) -> None:
    await watchdog(testbed, RestartPolicy())
    await testbed.fails()
    await asyncio.sleep(0.7)
    assert await testbed.asked(START, RESTART) == 0


async def test_what_somebody_has_stopped_since_stays_stopped(testbed: PluginTestbed) -> None:
    await watchdog(testbed, ALWAYS, **{"first-delay": 0.5, "max-delay": 60})
    await testbed.fails()
    await testbed.says("watchdog", "starting it again in 0.5 s")
    await testbed.act(OperationKind.STOP, "a")
    await asyncio.sleep(1)
    assert await testbed.asked(START, RESTART) == 0
    await testbed.act(OperationKind.START, "a")
    await testbed.fails()
    await testbed.act(OperationKind.STOP, "a")  # before the plugin has looked
    await asyncio.sleep(1)
    assert await testbed.asked(START, RESTART) == 1


async def test_one_that_fails_while_it_starts_is_tried_up_to_the_limit(
    testbed: PluginTestbed,
) -> None:
    await watchdog(testbed, ON_FAILURE)
    testbed.daemon.host.falls = ["die", "refuse", "die"]
    await testbed.fails()
    await testbed.says("watchdog", "web/a failed again after 3 restarts in 60 s: giving up")
    assert await testbed.asked(START) == 3
    said = testbed.said("watchdog")
    assert [float(d) for d in re.findall(r"again in ([\d.]+) s", said)] == [0.05, 0.1, 0.2]
    # Started by hand it runs, and within the window it is given up at once when it fails.
    await testbed.act(START, "a")
    await testbed.fails()
    await testbed.until(lambda: testbed.said("watchdog").count("giving up") == 2, "giving up again")
    assert await testbed.asked(START) == 4


async def test_a_lab_that_is_busy_is_asked_again(testbed: PluginTestbed) -> None:
    await watchdog(testbed, ON_FAILURE)
    host = testbed.daemon.host
    host.boot_output, boots = b"", host.boot_output
    restart = await testbed.engine.labs.act(RESTART, "web", ["b"])  # it goes on while `b` boots
    await testbed.fails()

    async def refused() -> bool:
        audits = await testbed.happened(EventType.AUDIT_REQUEST)
        return sum(audit.draft.data.get("status") == 409 for audit in audits) >= 2

    await testbed.until(refused, "it was refused twice")
    host.boot_output = boots
    host.say(await testbed.daemon.key("b"), boots)
    await testbed.engine.operations.wait(restart.id, 15)
    await is_ready(testbed)


async def test_its_duty_survives_its_own_end(testbed: PluginTestbed) -> None:
    await watchdog(testbed, ON_FAILURE, **{"first-delay": 1, "max-delay": 60})
    await testbed.fails()
    await testbed.says("watchdog", "starting it again in 1 s")
    await testbed.supervisor.stop("watchdog")
    assert await testbed.asked(START) == 0
    kept = json.loads((testbed.root / "state" / "watchdog" / "restarts.json").read_text())
    assert kept["pending"] == {"web/a": "node.crashed"}
    await testbed.start("watchdog", **{"first-delay": 1, "max-delay": 60})
    await is_ready(testbed)
    await testbed.until(lambda: "succeeded" in testbed.said("watchdog"), "the end of the start")
    # So does the limit.
    await testbed.fails()
    await testbed.says("watchdog", "starting it again in 2 s")


async def test_a_destroyed_lab_is_forgotten(testbed: PluginTestbed) -> None:
    await watchdog(testbed, ON_FAILURE, **{"first-delay": 0.5})
    await testbed.fails()
    await testbed.says("watchdog", "starting it again")
    await testbed.engine.labs.act(OperationKind.DESTROY, "web")
    await asyncio.sleep(1)
    assert await testbed.asked(START, RESTART) == 0
    kept = json.loads((testbed.root / "state" / "watchdog" / "restarts.json").read_text())
    assert kept == {"history": {}, "pending": {}}
    assert "Traceback" not in testbed.said("watchdog")


# recorder


def recorded(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_the_recorder_writes_a_file_per_lab_and_rotates(testbed: PluginTestbed) -> None:
    await testbed.start("recorder", **{"max-size": 2048, "keep": 2})
    await testbed.hears("recorder")
    folder = testbed.root / "state" / "recorder"
    # Events without a lab.
    await testbed.daemon.ok(testbed.engine.images.build("tiny", "tiny"))
    first = await testbed.daemon.seq()
    for _ in range(30):
        await testbed.tell(lab="web")
        await testbed.tell(lab="other")
    last = await testbed.daemon.seq()
    files = folder / "labs"

    def done() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return recorded(files / "other.jsonl")[-1]["seq"] == last
        return False

    await testbed.until(done, "the last event is written")
    assert recorded(folder / "daemon.jsonl")[0]["type"] == "io.labd.operation.started"
    names = sorted(entry.name for entry in files.iterdir())
    assert names == [f"{lab}.jsonl{end}" for lab in ("other", "web") for end in ("", ".1", ".2")]
    assert all(entry.stat().st_size <= 2048 for entry in files.iterdir())
    seqs = [e["seq"] for end in (".2", ".1", "") for e in recorded(files / f"web.jsonl{end}")]
    assert seqs == list(range(first + 1, last, 2))[-len(seqs) :]
    sent = {
        event.seq: event.cloudevent() for event in await testbed.daemon.inventory.events(0, 1000)
    }
    assert all(sent[int(str(e["seq"]))] == e for e in recorded(files / "web.jsonl"))


# webhook


class Receiver(BaseHTTPRequestHandler):
    """Takes what it is sent; `statuses` are the answers to the next requests, then 204."""

    got: list[tuple[dict[str, str], bytes]]
    statuses: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 204
        if status < 300:
            self.got.append((dict(self.headers), body))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiver(*statuses: int) -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("OneReceiver", (Receiver,), {"got": [], "statuses": list(statuses)})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook", kind
        finally:
            server.shutdown()
            thread.join()


async def test_the_webhook_signs_retries_and_keeps_the_order(testbed: PluginTestbed) -> None:
    with receiver(503, 302) as (url, seen):
        await testbed.start("webhook", url=url, secret="s3cret", events="node.*,lab.state")
        await testbed.hears("webhook")
        chosen = [await testbed.tell(), await testbed.tell(EventType.LAB_STATE)]
        await testbed.tell(EventType.LAB_CREATED)
        chosen.append(await testbed.tell(EventType.NODE_CRASHED))
        await testbed.until(lambda: len(seen.got) == 3, lambda: testbed.said("webhook"))
    assert [json.loads(body)["seq"] for _, body in seen.got] == chosen
    for headers, body in seen.got:
        digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        assert headers["X-Labd-Signature"] == f"sha256={digest}"
        assert headers["Content-Type"] == "application/cloudevents+json"
    assert f"event {chosen[0]} was not taken" in testbed.said("webhook")
    assert "s3cret" not in testbed.said("webhook")


async def test_the_webhook_gives_up_one_event_and_goes_on(testbed: PluginTestbed) -> None:
    with receiver(500, 500) as (url, seen):
        await testbed.start("webhook", url=url, events="*", retries=1)
        await testbed.hears("webhook")
        first = await testbed.tell()
        second = await testbed.tell()
        await testbed.until(lambda: len(seen.got) == 1, lambda: testbed.said("webhook"))
    assert [json.loads(body)["seq"] for _, body in seen.got] == [second]
    assert "X-Labd-Signature" not in seen.got[0][0]
    assert f"event {first} is given up after 2 tries" in testbed.said("webhook")


async def test_what_happened_while_the_webhook_was_away_is_sent(testbed: PluginTestbed) -> None:
    with receiver() as (url, seen):
        await testbed.start("webhook", url=url, events="*")
        await testbed.hears("webhook")
        await testbed.supervisor.stop("webhook")
        await testbed.tell()
        await testbed.start("webhook", url=url, events="*")
        await testbed.until(lambda: len(seen.got) == 1, lambda: testbed.said("webhook"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "plugin webhook needs the setting 'url': enable it with --set url=..."),
        (
            {"url": "file:///etc/passwd"},
            "plugin webhook: setting url: must be an http or https URL, like https://example.org/events",
        ),
        (
            {"url": "http://h/", "retrys": "1"},
            "plugin webhook has no setting 'retrys'; did you mean 'retries'?",
        ),
        (
            {"url": "http://h/", "retries": "-1"},
            "plugin webhook: setting retries: must be at least 0",
        ),
        (
            {"url": "http://h/", "timeout": "soon"},
            (
                "plugin webhook: setting timeout: duration 'soon' is not valid: "
                "write it like 90s, 5m or 2h30m"
            ),
        ),
    ],
)
async def test_wrong_settings_are_told(
    testbed: PluginTestbed, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        testbed.supervisor.check_settings("webhook", settings)
    assert str(caught.value) == message


# idle


async def warned(testbed: PluginTestbed) -> list[dict[str, object]]:
    """Return what was said in warnings, with its lab."""
    return [
        {**event.draft.data, "lab": event.draft.lab}
        for event in await testbed.happened(EventType.LAB_WARNING)
    ]


async def leased(testbed: PluginTestbed, *labs: str) -> bool:
    """Tell whether these labs and no others have a lease."""
    return {lease.lab for lease in await testbed.daemon.inventory.lab_leases()} == set(labs)


async def test_an_idle_lab_is_warned_and_stopped_and_no_other(testbed: PluginTestbed) -> None:
    for lab in ("web", "used", "exam-1"):
        await testbed.up(RestartPolicy(), lab)
    testbed.clock.go(3600)
    testbed.engine.activity.touch("used", Source.EXEC)
    settings = {"after": "30m", "warn-before": "1s", "exempt": "exam-*"}
    await testbed.start("idle", **settings)

    async def stopped() -> bool:
        return await testbed.asked(OperationKind.DOWN) == 1

    await testbed.until(stopped, "it is stopped")
    (warning,) = await warned(testbed)
    assert (warning["lab"], warning["by"], warning["reason"]) == ("web", "plugin idle", "idle")
    said = r"nobody has used lab web for 36\d\d s; in 1 s it is stopped"
    assert re.fullmatch(said, str(warning["text"]))
    operations = await testbed.daemon.inventory.operations(limit=100)
    down = [item.lab for item in operations if item.kind is OperationKind.DOWN]
    assert down == ["web"]


async def test_a_lease_of_idle_goes_when_the_lab_is_used_unless_it_is_somebody_s(
    testbed: PluginTestbed,
) -> None:
    engine = testbed.engine
    for lab in ("web", "mine"):
        await testbed.up(RestartPolicy(), lab)
    testbed.clock.go(3600)
    settings = {"after": "20s", "warn-before": "0s", "action": "lease", "lease": "2h"}
    await testbed.start("idle", **settings)
    await testbed.until(lambda: leased(testbed, "web", "mine"), "they have leases")
    await engine.leases.extend("mine", 60)
    kept = testbed.root / "state" / "idle" / "leases.json"
    await testbed.until(lambda: list(json.loads(kept.read_text())) == ["web"], "it is somebody's")
    for lab in ("web", "mine"):
        engine.activity.touch(lab, Source.EXEC)
    await testbed.until(lambda: leased(testbed, "mine"), "one is cancelled", 40)
    assert await warned(testbed) == []
