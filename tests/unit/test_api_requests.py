"""The API over a real unix socket: every route once, and bad requests with their exact words."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from labd.features.app import ROUTERS
from labd.model.states import NodeState
from tests.fakes.templates import WEB
from tests.unit.api_server import Server, api_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server whose lab `full` does not come up before the end."""
    with api_server() as running:
        running.hold_boots()
        assert ask(running.socket, "PUT", "/v1/labs/full", {"text": WEB})[0] == 202
        for node in ("a", "b"):
            running.run(running.daemon.until(node, NodeState.RUNNING, lab="full"))
        yield running
        running.release_boots()


@pytest.fixture
def fresh() -> Iterator[Server]:
    with api_server() as running:
        yield running


def ask(
    path: str,
    method: str,
    target: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], Any]:
    """Make one request; `body` is JSON unless it is bytes."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(path)
    sent = dict(headers or {})
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, target, data, sent)
        response = connection.getresponse()
        content = response.read()
        found = dict(response.getheaders())
    finally:
        connection.close()
    is_json = "json" in found.get("content-type", "")
    return response.status, found, json.loads(content) if is_json else content


NAME = "is not valid: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"
DENIED = "plugin watchdog may not do this: its manifest would have to ask for the scope "
BAD: list[tuple[str, str, object, int, str, str]] = [
    ("GET", "/v1/nothing", None, 404, "no_such_route",
     "there is no route /v1/nothing; see /openapi.json"),
    ("GET", "/", None, 404, "no_such_route", "there is no route /; see /openapi.json"),
    ("GET", "/v1/labs/", None, 404, "no_such_route",
     "there is no route /v1/labs/; see /openapi.json"),
    ("DELETE", "/v1/labs/web", None, 405, "method_not_allowed",
     "DELETE is not possible on /v1/labs/web"),
    ("POST", "/v1/labs", {}, 405, "method_not_allowed", "POST is not possible on /v1/labs"),
    ("GET", "/v1/labs/nope", None, 404, "not_found", "there is no lab nope; known: full"),
    ("GET", "/v1/labs/No", None, 422, "bad_input", f"lab name 'No' {NAME}"),
    ("GET", "/v1/labs/..", None, 422, "bad_input", f"lab name '..' {NAME}"),
    ("GET", "/v1/labs/a%0A", None, 422, "bad_input", f"lab name 'a\\n' {NAME}"),
    ("GET", "/v1/labs/" + "a" * 32, None, 422, "bad_input", f"lab name '{'a' * 32}' {NAME}"),
    ("GET", "/v1/labs/web/nodes/A", None, 422, "bad_input", f"node name 'A' {NAME}"),
    ("GET", "/v1/labs/nope/nodes/a", None, 404, "not_found", "there is no lab nope; known: full"),
    ("GET", "/v1/labs/nope/nodes/a/log", None, 404, "not_found",
     "there is no lab nope; known: full"),
    ("GET", "/v1/operations/op-1", None, 422, "bad_input",
     "path parameter 'id': string should match pattern '^op-[0-9a-f]{12}$'"),
    ("GET", "/v1/operations/op-000000000000", None, 404, "not_found",
     "there is no operation op-000000000000"),
    ("GET", "/v1/operations/op-000000000000?wait=61", None, 422, "bad_input",
     "query parameter 'wait': input should be less than or equal to 60"),
    ("GET", "/v1/operations?limit=0", None, 422, "bad_input",
     "query parameter 'limit': input should be greater than or equal to 1"),
    ("GET", "/v1/events?after=-1", None, 422, "bad_input",
     "query parameter 'after': input should be greater than or equal to 0"),
    ("GET", "/v1/events?after=x", None, 422, "bad_input",
     ("query parameter 'after': input should be a valid integer, "
      "unable to parse string as an integer")),
    ("GET", "/v1/events?lab=UP", None, 422, "bad_input",
     f"query parameter 'lab': 'UP' {NAME}"),
    ("GET", "/v1/events?type=[", None, 422, "bad_input",
     "query parameter 'type': string should match pattern '^[a-z.*-]{0,64}$'"),
    ("POST", "/v1/templates/validate", b"{", 400, "bad_input",
     "the body is not valid JSON: send an object as application/json"),
    ("POST", "/v1/templates/validate", b"\xff", 400, "bad_input",
     "the body is not valid JSON: send an object as application/json"),
    ("POST", "/v1/templates/validate", [], 422, "bad_input",
     "the body: input should be a valid dictionary or object to extract fields from"),
    ("POST", "/v1/templates/validate", {}, 422, "bad_input", "field 'text' is missing"),
    ("POST", "/v1/templates/validate", {"text": 1}, 422, "bad_input",
     "field 'text': input should be a valid string"),
    ("POST", "/v1/templates/validate", {"text": WEB, "x": 1}, 422, "bad_input",
     "field 'x' is not known: remove it"),
    ("POST", "/v1/templates/validate", {"text": WEB, "settings": {"a": 1}}, 422, "bad_input",
     "field 'settings.a': input should be a valid string"),
    ("POST", "/v1/templates/validate", {"text": f"{WEB}nam: x\n"}, 422, "bad_template",
     "template:17:1: unknown key 'nam' in the template; did you mean 'name'?"),
    ("POST", "/v1/templates/validate", {"text": "x" * (1 << 20)}, 413, "too_large",
     "the body is larger than 1 MiB: send less"),
    ("POST", "/v1/templates/validate", {"text": "x" * (600 << 10)}, 422, "bad_input",
     "field 'text': string should have at most 524288 characters"),
    ("GET", "/v1/templates/nope", None, 404, "not_found",
     "there is no shipped template nope; known: hello"),
    ("PUT", "/v1/labs/full", {"text": WEB}, 409, "busy",
     "lab full is busy: up (OPERATION) runs; wait for it with `lab wait full --for idle`"),
    ("PUT", "/v1/labs/new", {"text": WEB, "timeout": 0}, 422, "bad_input",
     "field 'timeout': input should be greater than 0"),
    ("PUT", "/v1/labs/new", {"text": WEB, "keep": "yes"}, 422, "bad_input",
     "field 'keep': input should be a valid boolean"),
    ("PUT", "/v1/labs/new", {"text": WEB, "settings": {"zz": "1"}}, 422, "bad_template",
     "--set:1:1: there is no parameter 'zz'; known: memory"),
    ("PUT", "/v1/labs/New", {"text": WEB}, 422, "bad_input", f"lab name 'New' {NAME}"),
    ("POST", "/v1/labs/nope/actions", {"action": "stop"}, 404, "not_found",
     "there is no lab nope; known: full"),
    ("POST", "/v1/labs/nope/actions", {"action": "explode"}, 422, "bad_input",
     ("field 'action': input should be 'down', 'destroy', 'start', 'stop', 'restart', 'pause', "
      "'resume' or 'reset'")),
    ("POST", "/v1/labs/nope/actions", {"action": "stop", "grace": -1}, 422, "bad_input",
     "field 'grace': input should be greater than or equal to 0"),
    ("POST", "/v1/labs/nope/actions", {"action": "stop", "nodes": ["../x"]}, 422, "bad_input",
     f"field 'nodes.0': '../x' {NAME}"),
    ("GET", "/v1/images/nope", None, 404, "not_found", "there is no image nope; known: tiny"),
    ("DELETE", "/v1/images/nope", None, 404, "not_found", "there is no image nope; known: tiny"),
    ("POST", "/v1/images", {"name": "x", "url": "file:///etc/shadow"}, 422, "bad_input",
     "field 'url': string should match pattern '^https?://'"),
    ("POST", "/v1/images", {"name": "x", "url": "http://h/", "sha256": "12"}, 422, "bad_input",
     "field 'sha256': string should match pattern '^([0-9a-fA-F]{64})?$'"),
    ("POST", "/v1/images", {"name": "x", "url": "http://h/", "format": "vmdk"}, 422, "bad_input",
     "field 'format': input should be 'raw', 'qcow2', 'iso' or 'kernel'"),
    ("PUT", "/v1/profiles/p", {"image": "tiny", "memory": 1}, 422, "bad_input",
     "field 'memory': must be 1 MiB (1048576) or more"),
    ("PUT", "/v1/profiles/p", {"image": "tiny", "vcpus": 1.5}, 422, "bad_input",
     "field 'vcpus': input should be a valid integer"),
    ("GET", "/v1/profiles/p", None, 404, "not_found", "there is no profile p"),
    ("PUT", "/v1/plugins/nope", {"enabled": True}, 404, "not_found",
     "there is no plugin nope; known: watchdog"),
    ("PUT", "/v1/plugins/watchdog", {"enabled": True, "settings": {"x": 1}}, 422, "bad_config",
     "plugin watchdog has no setting 'x'; known: limit, patience, secret"),
    ("PUT", "/v1/plugins/watchdog", {"enabled": 1}, 422, "bad_input",
     "field 'enabled': input should be a valid boolean"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "body", "status", "code", "detail"), BAD)
def test_a_bad_request_is_told_in_one_line_and_changes_nothing(
    server: Server, method: str, target: str, body: object, status: int, code: str, detail: str
) -> None:
    story = server.story()
    (held,) = ask(server.socket, "GET", "/v1/operations")[2]["operations"]
    found = ask(server.socket, method, target, body)
    detail = detail.replace("OPERATION", held["id"])
    assert found[0] == status, found
    assert found[1]["content-type"] == "application/problem+json"
    assert found[2]["detail"] == detail
    assert found[2]["code"] == code
    assert found[2]["status"] == status
    assert set(found[2]) == {"type", "title", "status", "detail", "code", "details"}
    assert "\n" not in detail
    assert server.story() == story
    assert len(ask(server.socket, "GET", "/v1/operations")[2]["operations"]) == 1


def test_a_recipe_that_is_not_there_fails_in_one_line(fresh: Server) -> None:
    _, headers, _ = ask(fresh.socket, "POST", "/v1/image-builds", {"recipe": "huge"})
    _, _, done = ask(fresh.socket, "GET", headers["location"] + "?wait=30")
    assert done["state"] == "failed"
    assert done["error"]["code"] == "bad_input"
    assert done["error"]["message"] == "there is no image recipe 'huge'; known: tiny"


def test_other_content_types_are_refused(server: Server) -> None:
    for given, shown in (
        ("text/plain", "'text/plain'"),
        ("application/x-www-form-urlencoded", "'application/x-www-form-urlencoded'"),
        ("", "'none'"),
    ):
        found = ask(server.socket, "PUT", "/v1/labs/x", b"{}", {"Content-Type": given})
        assert found[0] == 415
        assert found[2]["detail"] == (
            f"content type {shown} is not taken here: send application/json"
        )
    found = ask(server.socket, "PUT", "/v1/images/x", b"{}")
    assert found[2]["detail"] == (
        "content type 'application/json' is not taken here: send application/octet-stream"
    )


def test_a_chunked_body_over_the_limit_is_cut_off(server: Server) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(server.socket)
    chunks = (b"x" * 65536 for _ in range(32))
    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("PUT", "/v1/labs/x", chunks, headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["detail"] == "the body is larger than 1 MiB: send less"
    connection.close()


def test_a_fault_tells_an_id_and_nothing_of_the_inside(
    fresh: Server, caplog: pytest.LogCaptureFixture
) -> None:
    ask(fresh.socket, "PUT", "/v1/labs/web", {"text": WEB})
    fresh.daemon.networks.fail["bridges"] = RuntimeError("a secret of the inside")
    status, _, body = ask(fresh.socket, "GET", "/v1/labs/web")
    assert status == 500
    assert body["code"] == "internal_error"
    assert "secret" not in json.dumps(body)
    assert body["details"]["id"] in body["detail"]
    assert any(body["details"]["id"] in record.getMessage() for record in caplog.records)


# who may


@pytest.mark.parametrize(
    ("token", "method", "target", "status", "detail"),
    [
        ("", "GET", "/v1/info", 401,
         "this socket needs a token: send `Authorization: Bearer TOKEN`"),
        ("bad", "GET", "/v1/info", 401,
         "the token is not valid: it was revoked, or never given out"),
        ("bad", "GET", "/v1/nothing", 401,
         "the token is not valid: it was revoked, or never given out"),
        ("blind", "GET", "/v1/info", 200, ""),
        (
            "blind", "GET", "/v1/labs", 403,
            "plugin blind may not do this: its manifest would have to ask for the scope labs:read",
        ),
        ("good", "GET", "/v1/labs", 200, ""),
        ("good", "GET", "/v1/events", 200, ""),
        (
            "good", "GET", "/v1/images", 403,
            DENIED + "images:read",
        ),
        (
            "good", "GET", "/v1/plugins", 403,
            DENIED + "plugins:admin",
        ),
    ],
)  # fmt: skip
def test_the_plugin_socket_wants_a_token_with_the_scope(
    server: Server, token: str, method: str, target: str, status: int, detail: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found = ask(server.plugin_socket, method, target, headers=headers)
    assert found[0] == status
    if detail:
        assert found[2]["detail"] == detail
    if status == 401:
        assert found[1]["www-authenticate"] == "Bearer"


def test_every_route_has_a_scope_and_every_scope_a_route(server: Server) -> None:
    _, _, document = ask(server.socket, "GET", "/openapi.json")
    operations = [op for path in document["paths"].values() for op in path.values()]
    routes = [str(getattr(route, "name", "")) for router in ROUTERS for route in router.routes]
    sockets = [name for name in routes if name.startswith("attach_")]
    assert len(operations) == len(routes) - len(sockets), "all others are in OpenAPI"
    assert all(op["responses"] and op["summary"] for op in operations)


# what works


def test_a_lab_goes_up_and_away(fresh: Server) -> None:
    status, headers, operation = ask(fresh.socket, "PUT", "/v1/labs/web", {"text": WEB})
    assert status == 202
    assert headers["location"] == f"/v1/operations/{operation['id']}"
    _, _, done = ask(fresh.socket, "GET", headers["location"] + "?wait=10")
    assert done["state"] == "succeeded"
    _, _, lab = ask(fresh.socket, "GET", "/v1/labs/web")
    assert [(node["name"], node["state"], node["pid"]) for node in lab["nodes"]] == [
        ("a", "ready", 100_000),
        ("b", "ready", 100_001),
    ]
    assert lab["nodes"][0]["spec"]["restart"] == {"mode": "no", "limit": 5, "window": 300.0}
    assert lab["spec"]["template"] == "web"
    _, _, plan = ask(fresh.socket, "POST", "/v1/labs/web/plan", {"text": WEB})
    assert plan == {"changes": []}
    status, _, _ = ask(fresh.socket, "POST", "/v1/labs/web/actions", {"action": "destroy"})
    assert status == 202


def test_waiting_ends_with_the_operation(fresh: Server) -> None:
    fresh.hold_boots()
    began = time.monotonic()
    _, headers, _ = ask(fresh.socket, "PUT", "/v1/labs/web", {"text": WEB})
    _, _, running = ask(fresh.socket, "GET", headers["location"] + "?wait=0.05")
    assert running["state"] == "running"
    threading.Timer(0.3, fresh.release_boots).start()
    _, _, done = ask(fresh.socket, "GET", headers["location"] + "?wait=30")
    assert done["state"] == "succeeded"
    assert time.monotonic() - began < 25, "it did not wait for as long as it may"


def test_events_page_by_page(fresh: Server) -> None:
    for lab in ("web", "other"):
        _, headers, _ = ask(fresh.socket, "PUT", f"/v1/labs/{lab}", {"text": WEB})
        ask(fresh.socket, "GET", headers["location"] + "?wait=30")
    events = fresh.run(fresh.daemon.inventory.events(0, 1000))
    _, _, page = ask(fresh.socket, "GET", "/v1/events?after=2&limit=3")
    assert [event["seq"] for event in page["events"]] == [3, 4, 5]
    assert (page["first"], page["last"], page["next"]) == (1, len(events), 5)
    _, _, page = ask(fresh.socket, "GET", "/v1/events?after=0&lab=web&type=node.*")
    told = [e for e in events if e.draft.lab == "web" and e.draft.type.startswith("node.")]
    assert len(told) == 8
    assert [event["seq"] for event in page["events"]] == [event.seq for event in told]
    assert page["next"] == len(events)
    _, _, page = ask(fresh.socket, "GET", "/v1/events?type=io.labd.lab.deleted")
    assert page["events"] == []


def test_pruned_events_are_told() -> None:
    with api_server(keep_events=3) as fresh:
        for name in ("p", "q", "r", "s", "t", "u"):
            ask(fresh.socket, "PUT", f"/v1/profiles/{name}", {"image": "tiny"})
        fresh.run(fresh.daemon.inventory.mark_published(13))
        status, _, problem = ask(fresh.socket, "GET", "/v1/events?after=2")
        assert status == 410
        assert problem["code"] == "events_pruned"
        assert problem["details"] == {"first": 11, "last": 13}
        assert problem["detail"] == (
            "events up to 10 are not kept any more: ask with after=10, and read the present state "
            "of what you missed"
        )
        _, _, page = ask(fresh.socket, "GET", "/v1/events?after=10")
        assert [event["seq"] for event in page["events"]] == [11, 12, 13]
        _, _, page = ask(fresh.socket, "GET", "/v1/events")
        assert page["events"][0]["seq"] == 11


def test_a_server_stops_within_two_seconds_with_streams_and_waits_open(fresh: Server) -> None:
    fresh.hold_boots()
    _, headers, _ = ask(fresh.socket, "PUT", "/v1/labs/web", {"text": WEB})
    targets = ["/v1/events?follow=true", headers["location"] + "?wait=60"]
    opened = []
    for target in targets:
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(fresh.socket)
        channel.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        opened.append(channel)
    idle = socket.socket(socket.AF_UNIX)
    idle.connect(fresh.socket)
    time.sleep(0.2)
    began = time.monotonic()
    fresh.stop()
    assert time.monotonic() - began < 2
    for channel in [*opened, idle]:
        channel.close()


def test_requests_overlap(fresh: Server) -> None:
    fresh.hold_boots()
    _, headers, _ = ask(fresh.socket, "PUT", "/v1/labs/web", {"text": WEB})
    waiter = threading.Thread(
        target=ask, args=(fresh.socket, "GET", headers["location"] + "?wait=5")
    )
    waiter.start()
    began = time.monotonic()
    ask(fresh.socket, "GET", "/v1/labs")
    assert time.monotonic() - began < 2
    assert waiter.is_alive(), "it waited meanwhile"
    fresh.release_boots()
    waiter.join(60)
