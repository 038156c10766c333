"""Ways into labs over the real API and `connect.sock`, with echoing nodes behind them."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from labd.client import Client
from labd.model.errors import DaemonUnreachable, InputError, LabdError, NetworkFailed, NotFound
from labd.model.events import EventType
from labd.model.people import Role
from tests.fakes.templates import WEB
from tests.unit.api_server import Server, api_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with api_server() as running:
        with Client(running.socket) as client:
            client.check_operation(client.wait_operation(client.up("web", WEB)["id"], 10))
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.socket) as made:
        yield made


def drain(way: socket.socket) -> bytes:
    data = b""
    while chunk := way.recv(4096):
        data += chunk
    return data


def test_a_connection_is_handed_over(client: Client) -> None:
    with client.connect.to_node("web", "a", 80) as way:
        way.settimeout(60)
        way.sendall(b"hello ")
        way.shutdown(socket.SHUT_WR)
        assert drain(way) == b"HELLO bye", "the other way stays open"
    with client.connect.to_host("web", "a", 80) as way:
        way.settimeout(60)
        way.shutdown(socket.SHUT_WR)
        assert drain(way) == b"bye"


@pytest.mark.parametrize(
    ("node", "port", "kind", "message"),
    [
        ("c", 80, NotFound, "there is no node web/c; known: a, b"),
        ("a", 9, NetworkFailed, "cannot reach web/a: 10.0.0.1:9: connection refused"),
    ],
)
def test_a_refusal_is_the_daemons_own_error(
    client: Client, node: str, port: int, kind: type[LabdError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        client.connect.to_node("web", node, port)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"lab": "web", "node": "a"}\n',
        b'{"lab": "web", "node": "a", "port": "22"}\n',
        b'{"lab": "web", "node": "a", "host": "a", "port": 22}\n',
        b'{"lab": "web", "node": "a", "port": 22, "more": 1}\n',
        b'{"lab": 1, "node": "a", "port": 22}\n',
        b'"' + b"x" * 5000 + b'"\n',
        b"[" * 4000 + b"\n",
        b'{"lab": "\\ud800", "node": "a", "port": 22}\n',
        b'{"lab": "web", "host": "a\\nb", "port": 22}\n',
    ],
)
def test_what_is_no_request_is_told(server: Server, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(10)
        raw.connect(str(server.root / "run" / "connect.sock"))
        raw.sendall(request_)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        # The daemon may close with bytes of ours unread, which is told as a reset.
        with contextlib.suppress(ConnectionResetError):
            answer = drain(raw)
    found = json.loads(answer)
    assert found["code"] == "bad_input"
    assert found["message"] == (
        "that is no request for a way: "
        'send one line like {"lab": "web", "node": "server", "port": 22}'
    )


def test_who_was_handed_a_way_is_on_record_as_over_a_websocket(
    server: Server, client: Client
) -> None:
    """Whatever is handed out is written down first, and so is what was refused."""
    before = server.run(server.daemon.inventory.last_seq())
    client.connect.to_node("web", "a", 80).close()
    with attach(server, "nodes/a/connect?port=80"):
        pass
    client.connect.to_host("web", "a", 80).close()
    with attach(server, "connect?host=a&port=80"):
        pass
    with pytest.raises(NotFound):
        client.connect.to_node("web", "b" * 99, 80)
    with pytest.raises(NotFound):
        client.connect.to_node("web", "c", 80)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(10)
        raw.connect(str(server.root / "run" / "connect.sock"))
        raw.sendall(b"hello\n")
        assert json.loads(drain(raw))["code"] == "bad_input"
    user = f"user {pwd.getpwuid(os.getuid()).pw_name}"
    events = server.run(server.daemon.inventory.events(before, 100))
    told = [event.draft for event in events]
    assert {item.type for item in told} == {EventType.AUDIT_REQUEST}
    assert {item.data["actor"] for item in told} == {user}
    assert {item.data["role"] for item in told} == {Role.ADMINISTRATOR}
    assert [
        (d["action"], d.get("object", ""), item.lab, item.node, d["outcome"], d["status"])
        for item in told
        for d in (item.data,)
    ] == [
        ("attach_node_port", "lab web/a", "web", "a", "accepted", 101),
        ("attach_node_port", "lab web/a", "web", "a", "accepted", 101),
        ("attach_host_port", "lab web/a", "web", "", "accepted", 101),
        ("attach_host_port", "lab web/a", "web", "", "accepted", 101),
        ("attach_node_port", f"lab web/{'b' * 64}", "web", "b" * 64, "failed", 404),
        ("attach_node_port", "lab web/c", "web", "c", "failed", 404),
        ("connect.sock", "", "", "", "failed", 400),
    ]


def test_a_daemon_without_the_socket_is_unreachable(server: Server) -> None:
    os.symlink(server.socket, server.root / "api.sock")
    with Client(str(server.root / "api.sock")) as client, pytest.raises(DaemonUnreachable):
        client.connect.to_node("web", "a", 80)


def test_the_key_is_of_its_lab(client: Client) -> None:
    assert client.connect.key("web")["public"].startswith("ssh-ed25519 ")
    with pytest.raises(NotFound, match="there is no lab nothing"):
        client.connect.key("nothing")


# over a WebSocket


def attach(server: Server, target: str, *, token: str = "") -> ClientConnection:
    return unix_connect(
        server.plugin_socket if token else server.socket,
        f"ws://localhost/v1/labs/web/{target}",
        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
        compression=None,
        proxy=None,
    )


@pytest.mark.parametrize("target", ["nodes/a/connect?port=80", "connect?host=a&port=80"])
def test_bytes_go_both_ways_and_each_way_ends_by_itself(server: Server, target: str) -> None:
    with attach(server, target) as ws:
        ws.send(b"hello")
        assert ws.recv(10) == b"HELLO"
        ws.send(b"")
        assert ws.recv(10) == b"bye"
        assert ws.recv(10) == b"", "the end of the node's way"
        with pytest.raises(ConnectionClosedOK):
            ws.recv(10)


def test_a_caller_that_leaves_ends_the_connection(server: Server) -> None:
    with attach(server, "nodes/a/connect?port=80") as ws:
        ws.send(b"x")
        assert ws.recv(10) == b"X"
    with Client(server.socket) as client:
        assert client.lab("web")["name"] == "web"


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("nodes/c/connect?port=80", 404, "not_found"),
        ("nodes/a/connect?port=9", 500, "network_failed"),
        ("nodes/a/connect?port=0", 422, "bad_input"),
        ("nodes/a/connect?port=65536", 422, "bad_input"),
        ("nodes/a/connect", 422, "bad_input"),
        ("connect?host=&port=80", 422, "bad_input"),
    ],
)
def test_a_refused_websocket_is_told_by_a_problem(
    server: Server, target: str, status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        attach(server, target)
    assert caught.value.response.status_code == status
    assert json.loads(bytes(caught.value.response.body or b""))["code"] == code


def test_a_plugin_needs_the_scope(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        attach(server, "nodes/a/connect?port=80", token="good")
    assert caught.value.response.status_code == 403
    with (
        Client(server.plugin_socket, token="good") as client,
        pytest.raises(LabdError, match="scope labs:console"),
    ):
        client.connect.key("web")


def test_a_wrong_port_is_refused_by_the_form() -> None:
    from labd.model.publish import format_publish, parse_publish

    for text in ("8080:80", "0:22", "127.0.0.1:8080:80", "[::1]:8080:80", "0.0.0.0:1:65535"):
        parse_publish(text)
    assert format_publish(parse_publish("80:81")) == "127.0.0.1:80:81"
    assert format_publish(parse_publish("[::1]:80:81")) == "[::1]:80:81"
    for text, message in {
        "80": "'80' is no port forward: write it like 8080:80, 0:22 or 127.0.0.1:8080:80",
        "a:80": "'a:80' is no port forward: write it like 8080:80, 0:22 or 127.0.0.1:8080:80",
        "80:0": "'80:0' has a wrong port: the host's is 0 to 65535, the node's 1 to 65535",
        "65536:1": "'65536:1' has a wrong port: the host's is 0 to 65535, the node's 1 to 65535",
        "localhost:80:80": "'localhost:80:80': 'localhost' is no address; "
        "write it like 8080:80, 0:22 or 127.0.0.1:8080:80",
    }.items():
        with pytest.raises(InputError) as caught:
            parse_publish(text)
        assert caught.value.message == message
