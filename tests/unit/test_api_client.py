"""The client against the real API: typed answers, errors rebuilt, streams, uploads, consoles."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import unix_connect

from labd.client import AsyncClient, Client, default_socket
from labd.client.errors import EventsPruned, build, from_operation, from_problem
from labd.model.errors import (
    Busy,
    Conflict,
    DaemonUnreachable,
    IllegalTransition,
    ImageRefused,
    LabdError,
    NotFound,
    TemplateError,
    WorldError,
)
from labd.model.paths import Paths
from labd.template import schema
from tests.fakes.templates import WEB
from tests.unit.api_server import BOOT, Server, api_server

KERNEL = b"".ljust(0x202, b"k") + b"HdrS" + bytes(8000)
SLOW = """\
name: s
nodes: {slow: {image: tiny, ready: {console: never, timeout: 1s}}}
"""


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.socket) as made:
        yield made


def test_the_default_socket_is_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABD_SOCKET", raising=False)
    monkeypatch.delenv("LABD_ROOT", raising=False)
    assert default_socket() == str(Paths.system().api_socket)
    monkeypatch.setenv("LABD_ROOT", "/srv/x")
    assert default_socket() == str(Paths.below(Path("/srv/x")).api_socket)
    monkeypatch.setenv("LABD_ROOT", "/")
    assert default_socket() == str(Paths.system().api_socket)
    monkeypatch.setenv("LABD_SOCKET", "/x.sock")
    assert default_socket() == "/x.sock"


def test_a_lab_from_up_to_destroy(client: Client) -> None:
    assert client.info()["version"] == "9.9.9"
    operation = client.up("web", WEB)
    assert client.check_operation(client.wait_operation(operation["id"]))["state"] == "succeeded"
    assert [lab["name"] for lab in client.labs()] == ["web"]
    assert client.lab("web")["networks"][0]["subnet"] == "10.0.0.0/24"
    assert client.node("web", "a")["state"] == "ready"
    assert client.node_log("web", "a") == BOOT
    assert client.plan("web", WEB) == []
    assert client.wait_operation(client.act("destroy", "web")["id"])["state"] == "succeeded"
    assert client.labs() == []
    assert [op["kind"] for op in client.operations()] == ["destroy", "up"]


def test_the_rest_of_the_methods(server: Server, client: Client) -> None:
    assert client.doctor()[0]["name"] == "kvm"
    assert client.validate(WEB)["nodes"] == ["a", "b"]
    assert client.template_schema() == schema()
    assert client.template_parameters(WEB)[0]["name"] == "memory"
    assert client.templates()[0]["name"] == "hello"
    assert client.template("hello")["file"] == "hello.yaml"
    assert client.add_profile("p", image="tiny", memory=64 << 20)["memory"] == 64 << 20
    assert client.profile("p") in client.profiles()
    client.remove_profile("p")
    assert client.profiles() == []
    assert client.set_plugin("watchdog", enabled=True)["state"] == "running"
    assert client.plugins()[0]["enabled"] is True
    assert client.plugin_log("watchdog") == b"said\n"
    server.daemon.images.web["http://127.0.0.1/x"] = b"\0" * 512
    operation = client.import_image("far", "http://127.0.0.1/x", format="raw")
    assert client.wait_operation(operation["id"])["state"] == "succeeded"
    client.check_operation(client.wait_operation(client.build_image("tiny", "two")["id"]))
    client.remove_image("two")
    assert [image["name"] for image in client.images()] == ["far", "tiny"]


def test_errors_are_the_daemons_own(server: Server, client: Client) -> None:
    with pytest.raises(NotFound, match="^there is no lab nope$"):
        client.lab("nope")
    with pytest.raises(TemplateError) as template:
        client.validate("nam: x", "x.yaml")
    assert template.value.file == "x.yaml"
    assert template.value.problems[0].line == 1
    server.hold_boots()
    client.up("full", WEB)
    with pytest.raises(Busy, match="lab full is busy: up"):
        client.up("full", WEB)
    server.release_boots()
    operation = client.up("s", SLOW)
    with pytest.raises(LabdError, match="s/slow is not ready after 1 s") as failed:
        client.check_operation(client.wait_operation(operation["id"]))
    assert failed.value.code == "guest_failed"


def test_every_error_of_the_tree_survives_the_way() -> None:
    def tree(kind: type[LabdError]) -> Iterator[type[LabdError]]:
        yield kind
        for child in kind.__subclasses__():
            if child.__module__ == LabdError.__module__:
                yield from tree(child)

    for kind in tree(LabdError):
        made = build(kind.code, "a message", {"file": "f", "subject": "s"})
        assert type(made).code == kind.code
        assert made.message == str(made) == "a message"
    back = build("illegal_transition", "m", {"subject": "a", "actual": "b", "required": ["c"]})
    assert isinstance(back, IllegalTransition)
    assert back.required == ("c",)
    assert isinstance(from_operation({"code": "busy", "message": "m", "by": "x"}), Busy)
    assert from_operation({"code": "busy", "message": "m", "by": "x"}).details == {"by": "x"}


def test_answers_that_are_no_problems_are_told_by_status() -> None:
    assert isinstance(from_problem(404, b"<html>"), NotFound)
    assert isinstance(from_problem(502, b"{}"), WorldError)
    newer = from_problem(409, b'{"code": "from_the_future", "detail": "d", "details": {}}')
    assert isinstance(newer, Conflict)
    assert newer.message == "d"


def test_an_absent_daemon_is_told_with_advice(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(DaemonUnreachable) as found:
        Client(path).labs()
    assert found.value.message == (
        f"labd does not run (no answer on {path}); start it with: labd serve"
    )


def test_a_deep_root_is_reached_too(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("api.sock")
    with pytest.raises(DaemonUnreachable, match="does not run"):
        Client(str(folder / "api.sock")).labs()


def test_a_daemon_that_says_nothing_is_unreachable_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(DaemonUnreachable, match="did not answer in time"):
            Client(path, timeout=0.1).labs()


def test_a_kept_connection_that_went_stale_is_opened_anew(server: Server) -> None:
    with Client(server.socket) as client:
        client.labs()
        kept = client.transport._connection
        assert kept is not None
        kept.sock.shutdown(socket.SHUT_RDWR)
        assert client.labs() == []


def test_events_come_as_they_happen(server: Server, client: Client) -> None:
    heard: list[str] = []
    stream = Client(server.socket).follow(lab="web")
    listener = threading.Thread(
        target=lambda: heard.extend(event["type"] for event in stream), daemon=True
    )
    listener.start()
    time.sleep(0.2)
    client.wait_operation(client.up("other", WEB)["id"])
    client.wait_operation(client.up("web", WEB)["id"])
    end = time.monotonic() + 5
    while "io.labd.operation.succeeded" not in heard and time.monotonic() < end:
        time.sleep(0.02)
    told = [kind.removeprefix("io.labd.") for kind in heard]
    told.remove("audit.request")
    assert told == [kind for kind, lab in server.story() if lab == "web"]
    assert told.count("node.ready") == 2
    server.stop()
    listener.join(5)
    assert not listener.is_alive(), "the stream ends with the daemon"


def test_pruned_events_are_told() -> None:
    with api_server(keep_events=3) as server, Client(server.socket) as client:
        client.wait_operation(client.up("web", WEB)["id"])
        last = server.run(server.daemon.inventory.last_seq())
        server.run(server.daemon.inventory.mark_published(last))
        with pytest.raises(EventsPruned) as found:
            client.events(0)
        assert found.value.details["first"] == last - 2
        with pytest.raises(EventsPruned):
            next(client.follow(0))


def test_an_upload_streams_and_counts(client: Client) -> None:
    data = KERNEL + b"\0" * (3 << 20)
    counted: list[int] = []
    image = client.upload_image(
        "disk",
        [io.BytesIO(KERNEL), io.BytesIO(data[len(KERNEL) :])],
        length=len(data),
        progress=counted.append,
        format="kernel",
        kernel_size=len(KERNEL),
        sha256=hashlib.sha256(data).hexdigest(),
        cmdline="console=ttyS0 x=a&b",
    )
    assert image["size"] == sum(counted) == len(data)
    assert image["files"] == ["kernel", "initrd"]
    assert image["cmdline"] == "console=ttyS0 x=a&b"
    with pytest.raises(ImageRefused, match="the digest is sha256:"):
        client.upload_image("bad", [io.BytesIO(b"x")], length=1, sha256="0" * 64)


def test_an_upload_that_is_refused_early_tells_why(client: Client) -> None:
    client.upload_image("early", [io.BytesIO(b"\0" * 512)], length=512)
    with pytest.raises(Conflict, match="^there is an image early already; choose another"):
        client.upload_image("early", [io.BytesIO(b"\0" * (64 << 20))], length=64 << 20)


def test_an_upload_that_breaks_off_changes_nothing(server: Server, client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(server.socket)
        channel.sendall(
            b"PUT /v1/images/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Content-Type: application/octet-stream\r\n\r\nhalf"
        )
        time.sleep(0.1)
    time.sleep(0.2)
    assert [image["name"] for image in client.images()] == ["tiny"]


# the console


def test_a_console_talks_both_ways_and_ends(server: Server, client: Client) -> None:
    client.wait_operation(client.up("web", WEB)["id"])
    url = "ws://localhost/v1/labs/web/nodes/a/console"
    with unix_connect(server.socket, url, compression=None, proxy=None) as one:
        with unix_connect(server.socket, url, compression=None, proxy=None) as two:
            assert one.recv(5) == two.recv(5) == BOOT
            one.send(b"a")
            assert one.recv(5) == two.recv(5) == b"a"
            two.send("b")
            assert one.recv(5) == two.recv(5) == b"b"
        server.call(server.daemon.host.die, server.key("a"))
        with pytest.raises(ConnectionClosed):
            one.recv(5)
        assert (one.close_code, one.close_reason) == (1001, "the machine of web/a has ended")


@pytest.mark.parametrize(
    ("target", "status", "detail"),
    [
        ("/v1/labs/nope/nodes/a/console", 404, "there is no lab nope"),
        (
            "/v1/labs/web/nodes/A/console",
            422,
            "node name 'A' is not valid: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter",
        ),
    ],
)
def test_a_refused_console_is_a_problem(
    server: Server, target: str, status: int, detail: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        unix_connect(server.socket, f"ws://localhost{target}", proxy=None)
    response = refused.value.response
    assert response.status_code == status
    assert from_problem(status, bytes(response.body or b"")).message == detail


def test_a_console_without_its_scope_is_refused(server: Server) -> None:
    url = "ws://localhost/v1/labs/web/nodes/a/console"
    for headers, status in (({}, 401), ({"Authorization": "Bearer good"}, 403)):
        with pytest.raises(InvalidStatus) as refused:
            unix_connect(server.plugin_socket, url, proxy=None, additional_headers=headers)
        assert refused.value.response.status_code == status


def test_a_server_stops_with_a_console_open(server: Server, client: Client) -> None:
    client.wait_operation(client.up("web", WEB)["id"])
    url = "ws://localhost/v1/labs/web/nodes/a/console"
    with unix_connect(server.socket, url, compression=None, proxy=None) as line:
        assert line.recv(5) == BOOT
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 2


# asyncio


async def test_the_async_client_overlaps_and_follows(server: Server) -> None:
    async with AsyncClient(server.plugin_socket, "good") as lab:
        assert (await lab.info())["version"] == "9.9.9"
        stream = lab.follow(0)
        async with contextlib.aclosing(stream):
            operation = await lab.up("web", WEB)
            event = await anext(stream)
            assert event["seq"] == 1
        await lab.wait_operation(operation["id"])
        many = await asyncio.gather(*(lab.labs() for _ in range(20)), lab.start("web", "a"))
        assert len(many) == 21
        assert (await lab.events(0))["last"] > 3
        with pytest.raises(NotFound):
            await lab.lab("nope")


def test_importing_the_client_is_cheap() -> None:
    code = (
        "import labd.client, sys; "
        "print([m for m in ('asyncio', 'pydantic', 'logging', 'websockets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
