"""People, what is theirs, and the record of what they ask: the app over the engine on fakes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from labd.api.app import AppSettings
from labd.api.authenticators import UserRoles
from labd.api.limits import Bounds
from labd.features.access.tokens import digest
from labd.features.app import make_app
from labd.model.classes import ClassRecord
from labd.model.people import Role, asking, on_behalf
from labd.model.records import OperationKind
from labd.model.states import NodeState
from tests.contract.asgi import ADMIN, PEOPLE, PLUGINS, TCP, Answer, Entrance, ask, scope_of
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec
from tests.fakes.templates import hello_only

ROOT = Entrance(server=ADMIN)
TEMPLATE = {"text": "name: web\nnodes: {a: {image: disk, ready: {console: 'guest: up'}}}\n"}


@dataclass
class Place:
    """An app, its engine, and who has a token."""

    app: Any
    daemon: FakeDaemon
    clock: Clock

    async def token(
        self, name: str, role: Role, *labs: str, seconds: float | None = None
    ) -> Entrance:
        made = await self.daemon.engine.access.create(name, role, labs, seconds)
        return Entrance(token=made.token)

    async def ask(
        self, door: Entrance, method: str, path: str, body: object = None, query: str = ""
    ) -> Answer:
        return await ask(self.app, door, method, path, body, query)

    async def names(self, door: Entrance, path: str, key: str, of: str = "name") -> list[str]:
        answer = await self.ask(door, "GET", path)
        assert answer.status == 200, answer
        return [item[of] for item in answer.json[key]]

    async def audits(self) -> list[dict[str, Any]]:
        """Return what `audit.request` tells: the data, with lab and operation."""
        return [
            {**e.draft.data, "lab": e.draft.lab, "operation": e.draft.operation}
            for e in await self.daemon.inventory.events(0, 10_000)
            if e.draft.type == "audit.request"
        ]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = Clock()
    async with engine_over_fakes(tmp_path, moment=clock) as home:
        settings = AppSettings(
            version="0",
            tokens=lambda _: None,
            admin_socket=Path(ADMIN[0]),
            users=UserRoles(users={1001: Role.INSTRUCTOR}, groups={50: Role.ADMINISTRATOR}),
            hosts=["labs.example.org"],
            student=Bounds(rate=1000, burst=1000, streams=1, commands=1, under_way=40),
        )
        app = make_app(home.engine, hello_only(tmp_path), settings)
        yield Place(app=app, daemon=home, clock=clock)


async def own(place: Place, owner: str, name: str) -> None:
    with asking(on_behalf(owner)):
        await place.daemon.up(spec(node("a")), name)


async def test_lists_events_and_operations_have_what_is_ones_own(place: Place) -> None:
    await own(place, "anna", "web")
    await own(place, "bob", "shop")
    anna = await place.token("anna", Role.INSTRUCTOR)
    pupil = await place.token("pupil", Role.STUDENT, "web")
    for door, labs in ((ROOT, ["shop", "web"]), (anna, ["web"]), (pupil, ["web"])):
        assert await place.names(door, "/v1/labs", "labs") == labs
        told = set(await place.names(door, "/v1/operations", "operations", "lab"))
        assert told == set(labs)
        events = (await place.ask(door, "GET", "/v1/events")).json["events"]
        assert {event.get("lab") for event in events} - {None} == set(labs)
        assert door is ROOT or all("lab" in event for event in events)
    await place.daemon.ok(place.daemon.engine.labs.act(OperationKind.DESTROY, "web"))
    await own(place, "bob", "web")  # who must not read what another's lab of this name did
    bob = await place.token("bob", Role.INSTRUCTOR)
    first = (await place.daemon.lab("web")).created
    events = (await place.ask(bob, "GET", "/v1/events", query="lab=web")).json["events"]
    assert events[0]["type"] == "io.labd.operation.started"
    (made,) = [event for event in events if event["type"] == "io.labd.lab.created"]
    assert made["time"] >= first
    events = (await place.ask(anna, "GET", "/v1/events", query="lab=web")).json["events"]
    assert events[-1]["type"] == "io.labd.operation.succeeded"  # of the destruction


async def test_what_an_instructor_makes_is_theirs(place: Place) -> None:
    anna = await place.token("anna", Role.INSTRUCTOR)
    bob = await place.token("bob", Role.INSTRUCTOR)
    made = await place.ask(anna, "PUT", "/v1/labs/web", TEMPLATE)
    assert made.status == 202, made
    await place.daemon.idle()
    assert (await place.daemon.lab()).owner == "anna"
    assert (await place.ask(bob, "GET", "/v1/labs/web")).status == 404
    taken = await place.ask(bob, "PUT", "/v1/labs/web", TEMPLATE)
    assert (taken.status, taken.json["detail"]) == (
        409,
        "the name web is taken; choose another name for the lab",
    )
    user = Entrance(server=PEOPLE, uid=1001)
    who = (await place.ask(user, "GET", "/v1/caller")).json
    assert who["role"] == "instructor"
    assert (await place.ask(user, "GET", "/v1/labs/web")).status == 404


async def test_references_in_bodies_are_held_to_whose_they_are_too(place: Place) -> None:
    await own(place, "anna", "web")
    await own(place, "bob", "shop")
    with asking(on_behalf("bob")):
        body = {"name": "saved", "mode": "live"}
        await place.ask(ROOT, "POST", "/v1/labs/shop/checkpoints", body)
        await place.daemon.idle()
    anna = await place.token("anna", Role.INSTRUCTOR)
    start = {"name": "monday", "checkpoint": "saved", "students": [{"name": "ann"}]}
    for path, asked in (
        ("/v1/classes", start),
        ("/v1/labs/web/restore", {"checkpoint": "saved"}),
    ):
        answer = await place.ask(anna, "POST", path, asked)
        assert (answer.status, answer.json["detail"]) == (404, "there is no checkpoint saved")
    assert await place.names(anna, "/v1/checkpoints", "checkpoints") == []
    image = await place.ask(anna, "GET", "/v1/images/disk")
    assert image.json["used_by"] == ["web/a"]


async def test_a_student_has_nodes_and_not_the_lab(place: Place) -> None:
    secret = node("a", on_fork=(("echo", "answer"),))
    await place.daemon.up(spec(secret))
    pupil = await place.token("pupil", Role.STUDENT, "web")
    act = "/v1/labs/web/actions"
    for action, nodes, status in (
        ("restart", ["a"], 202),
        ("reset", [], 202),
        ("restart", [], 403),
        ("down", [], 403),
        ("destroy", [], 403),
        ("pause", ["a"], 403),
    ):
        answer = await place.ask(pupil, "POST", act, {"action": action, "nodes": nodes})
        assert answer.status == status, (action, answer)
        await place.daemon.idle()
        await place.daemon.until("a", NodeState.READY)
    for path in ("/v1/labs/web", "/v1/labs/web/nodes/a"):
        assert b"answer" in (await place.ask(ROOT, "GET", path)).body
        assert b"answer" not in (await place.ask(pupil, "GET", path)).body
    assert (await place.ask(pupil, "GET", "/v1/info")).json == {"version": "0"}
    who = (await place.ask(pupil, "GET", "/v1/caller")).json
    assert (who["role"], who["labs"]) == ("student", ["web"])


async def test_a_students_token_goes_with_the_lab(place: Place) -> None:
    await place.daemon.up(spec(node("a")))
    await place.daemon.up(spec(node("a")), "shop")
    both = await place.token("both", Role.STUDENT, "web", "shop")
    one = await place.token("one", Role.STUDENT, "web")
    await place.daemon.act(OperationKind.DESTROY)
    await place.daemon.up(spec(node("a")))  # another lab, though of this name
    assert (await place.ask(one, "GET", "/v1/labs/web")).status == 401
    assert (await place.ask(both, "GET", "/v1/labs/web")).status == 404
    assert (await place.ask(both, "GET", "/v1/labs/shop")).status == 200
    assert await place.names(ROOT, "/v1/tokens", "tokens") == ["both"]


async def test_a_token_is_shown_once_and_kept_as_a_hash(place: Place) -> None:
    body = {"name": "anna", "role": "instructor", "seconds": 60}
    made = await place.ask(ROOT, "POST", "/v1/tokens", body)
    assert (made.status, made.headers["cache-control"]) == (201, "no-store")
    token = made.json["token"]
    (kept,) = await place.daemon.inventory.tokens()
    assert kept.hash == digest(token)
    assert token not in repr(await place.daemon.inventory.tokens())
    assert token not in repr(await place.daemon.inventory.events(0, 1000))
    door = Entrance(token=token)
    assert (await place.ask(door, "GET", "/v1/labs")).status == 200
    assert (await place.ask(replace(door, server=PLUGINS), "GET", "/v1/labs")).status == 401
    place.clock.go(61)
    assert (await place.ask(door, "GET", "/v1/labs")).status == 401
    assert dt.datetime.fromisoformat(kept.expires).tzinfo is not None


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"name": "x", "role": "king"}, 422, "field 'role': input should be 'administrator'"),
        ({"name": "x", "role": "plugin"}, 400, "plugins get their tokens from labd"),
        ({"name": "x", "role": "student"}, 400, "a student's token is for labs: name one"),
        ({"name": "x", "role": "student", "labs": ["nope"]}, 404, "there is no lab nope"),
        ({"name": "x", "role": "instructor", "labs": ["web"]}, 400, "labs are of a student's"),
        ({"name": "X", "role": "instructor"}, 422, "field 'name': 'X' is not valid: use 1"),
        ({"name": "x", "role": "instructor", "seconds": 1e12}, 400, "a token lasts from one"),
        ({"name": "taken", "role": "instructor"}, 409, "there is a token taken already; revoke"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    place: Place, body: dict[str, object], status: int, detail: str
) -> None:
    await place.token("taken", Role.INSTRUCTOR)
    answer = await place.ask(ROOT, "POST", "/v1/tokens", body)
    assert answer.status == status
    assert str(answer.json["detail"]).startswith(detail), answer.json
    assert await place.names(ROOT, "/v1/tokens", "tokens") == ["taken"]


@pytest.mark.parametrize("token", ["x", "labd_", "é", "a b", "x" * 5000, "labd_" + "A" * 43])
async def test_a_malformed_token_opens_nothing(place: Place, token: str) -> None:
    door = (
        Entrance(headers={"authorization": f"Bearer {token}"})
        if token != "é"
        else Entrance(token="%C3")
    )
    for server in (TCP, PEOPLE, PLUGINS):
        answer = await place.ask(replace(door, server=server), "GET", "/v1/labs")
        assert (answer.status, answer.code) == (401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_that_is_good_no_more_ends_what_is_open(place: Place) -> None:
    await place.daemon.up(spec(node("a")))
    pupil = await place.token("pupil", Role.STUDENT, "web")
    anna = await place.token("anna", Role.INSTRUCTOR)
    gone: list[dict[str, Any]] = []
    come: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    come.put_nowait({"type": "websocket.connect"})
    path = "/v1/labs/web/nodes/a/console"
    scope = scope_of(pupil, "WS", path)

    async def send(message: dict[str, Any]) -> None:
        gone.append(message)

    console = asyncio.create_task(place.app(scope, come.get, send))
    follow = asyncio.create_task(place.ask(anna, "GET", "/v1/events", query="follow=true&after=0"))
    try:
        async with asyncio.timeout(LIMIT):
            while not gone:
                await asyncio.sleep(0.01)
            # One WebSocket is what a student may have here.
            refused = await place.ask(pupil, "WS", path)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert not console.done()
        for name in ("pupil", "anna"):
            answer = await place.ask(ROOT, "DELETE", f"/v1/tokens/{name}")
            assert answer.status == 204
        async with asyncio.timeout(4 * LIMIT):
            await console
            assert (await follow).status == 200
    finally:
        for task in (console, follow):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert gone[0]["type"] == "websocket.accept"
    assert gone[-1]["type"] == "websocket.close"
    assert gone[-1]["code"] == 1008
    assert (await place.ask(pupil, "GET", "/v1/labs/web")).status == 401


async def test_a_change_and_who_made_it_are_one_commit(place: Place) -> None:
    anna = await place.token("anna", Role.INSTRUCTOR)
    before = await place.daemon.seq()
    made = await place.ask(anna, "PUT", "/v1/labs/web", TEMPLATE)
    operation = made.json["id"]
    await place.daemon.idle()
    (audit,) = await place.audits()
    assert audit == {
        "actor": "token anna",
        "role": "instructor",
        "action": "up_lab",
        "object": "lab web",
        "outcome": "accepted",
        "lab": "web",
        "operation": operation,
    }
    events = await place.daemon.inventory.events(before, 10)
    kinds = [str(event.draft.type) for event in events]
    assert kinds.index("audit.request") > kinds.index("lab.created")
    same = {e.time for e in events if e.draft.type in {"lab.created", "audit.request"}}
    assert len(same) <= 2  # between them no other change was told
    assert events[0].draft.operation == operation

    await place.ask(anna, "POST", "/v1/labs/web/plan", TEMPLATE)  # changes nothing
    await place.ask(anna, "GET", "/v1/labs/web")
    await place.ask(anna, "DELETE", "/v1/images/disk")
    await place.ask(anna, "DELETE", "/v1/labs/other/lease")
    told = [(a["action"], a["object"], a["outcome"], a.get("status")) for a in await place.audits()]
    assert told[1:] == [
        ("remove_image", "disk", "refused", 403),
        ("cancel_lease", "lab other", "refused", 404),
    ]


async def test_what_is_taken_out_of_a_guest_is_on_record(place: Place) -> None:
    await place.daemon.up(spec(node("a")))
    save = {"name": "saved", "mode": "live"}
    await place.ask(ROOT, "POST", "/v1/labs/web/checkpoints", save)
    await place.daemon.idle()
    pupil = await place.token("pupil", Role.STUDENT, "web")
    admin = await place.token("admin", Role.ADMINISTRATOR)
    before = len(await place.audits())
    for door, path in (
        (pupil, "/v1/labs/web/ssh-key"),
        (pupil, "/v1/labs/web/nodes/a"),
        (admin, "/v1/checkpoints/saved/archive"),
        (pupil, "/v1/checkpoints/saved/archive"),
    ):
        await place.ask(door, "GET", path)
    await place.ask(pupil, "GET", "/v1/labs/web/nodes/a/file", query="path=/etc/passwd")
    told = [
        (audit["actor"], audit["action"], audit["object"], audit["status"])
        for audit in (await place.audits())[before:]
    ]
    assert [item[:3] for item in told] == [
        ("token pupil", "get_ssh_key", "lab web"),
        ("token admin", "export_checkpoint", "checkpoint saved"),
        ("token pupil", "export_checkpoint", "checkpoint saved"),
        ("token pupil", "read_file", "lab web/a"),
    ]
    assert [item[3] for item in told[:3]] == [200, 200, 403]


async def test_a_flood_of_refused_requests_is_counted_and_not_kept(place: Place) -> None:
    anna = await place.token("anna", Role.INSTRUCTOR)
    for _ in range(120):
        assert (await place.ask(anna, "DELETE", "/v1/images/disk")).status == 403
    kept = [audit for audit in await place.audits() if audit["outcome"] == "refused"]
    assert 20 <= len(kept) <= 40
    seen = [await place.ask(Entrance(), "GET", "/v1/labs") for _ in range(60)]
    assert {answer.status for answer in seen} == {401}  # each from another host
    kept = [audit for audit in await place.audits() if audit["actor"] == "unknown"]
    assert 20 <= len(kept) <= 40
    stranger = Entrance(server=PEOPLE, uid=1234)
    statuses = [(await place.ask(stranger, "GET", "/v1/labs")).status for _ in range(60)]
    assert statuses[0] == 401
    assert 429 in statuses


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "127.0.0.1:8443"}, 200, ""),
        ({"host": "localhost:8443"}, 200, ""),
        ({"host": "labs.example.org"}, 200, ""),
        ({"host": "LABS.example.org:8443"}, 200, ""),
        ({"host": "evil.example.com:8443"}, 421, "misdirected"),
        ({"host": "127.0.0.1.evil.example.com"}, 421, "misdirected"),
        ({"host": ""}, 421, "misdirected"),
        ({"origin": "http://127.0.0.1:8443"}, 200, ""),
        ({"origin": "https://127.0.0.1:8443"}, 403, "foreign_origin"),
        ({"origin": "http://evil.example.com"}, 403, "foreign_origin"),
        ({"origin": "null"}, 403, "foreign_origin"),
    ],
)
async def test_host_and_origin_are_looked_at(
    place: Place, headers: dict[str, str], status: int, code: str
) -> None:
    await place.daemon.up(spec(node("a")))
    anna = await place.token("anna", Role.ADMINISTRATOR)
    door = replace(anna, headers=headers)
    answer = await place.ask(door, "GET", "/v1/labs")
    assert (answer.status, answer.code) == (status, code)
    socket = await place.ask(door, "WS", "/v1/labs/web/nodes/a/console")
    assert socket.status == (101 if status == 200 else status)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await place.ask(door, "OPTIONS", "/v1/labs")).status in {405, status}


async def test_users_of_the_host_are_known_by_the_kernels_word(place: Place) -> None:
    for uid, role in ((0, "administrator"), (50, "administrator"), (1001, "instructor")):
        who = await place.ask(Entrance(server=PEOPLE, uid=uid), "GET", "/v1/caller")
        assert who.json["role"] == role
    assert (await place.ask(Entrance(server=PEOPLE, uid=1002), "GET", "/v1/caller")).status == 401
    pupil = await place.token("chief", Role.ADMINISTRATOR)
    wrong = Entrance(server=PEOPLE, uid=0, token="labd_wrong")
    assert (await place.ask(wrong, "GET", "/v1/caller")).status == 401
    who = await place.ask(replace(pupil, server=PEOPLE, uid=1001), "GET", "/v1/caller")
    assert who.json["name"] == "token chief"


async def test_the_tokens_of_a_class_open_one_lab_each(place: Place) -> None:
    await place.daemon.up(spec(node("a")))
    await place.ask(ROOT, "POST", "/v1/labs/web/checkpoints", {"name": "saved", "mode": "live"})
    await place.daemon.idle()
    anna = await place.token("anna", Role.INSTRUCTOR)
    start = {"name": "monday", "checkpoint": "saved", "students": [{"name": "ann"}, {"name": "bo"}]}
    assert (await place.ask(anna, "POST", "/v1/classes", start)).status == 404
    assert (await place.ask(ROOT, "POST", "/v1/classes", start)).status == 202
    await _made(place, 2)
    answer = await place.ask(ROOT, "POST", "/v1/classes/monday/tokens", {})
    handed = {item["student"]: item for item in answer.json["tokens"]}
    assert {name: item["lab"] for name, item in handed.items()} == {
        "ann": "monday-ann",
        "bo": "monday-bo",
    }
    authenticators = {name: Entrance(token=item["token"]) for name, item in handed.items()}
    assert (await place.ask(authenticators["ann"], "GET", "/v1/labs/monday-ann")).status == 200
    assert (await place.ask(authenticators["ann"], "GET", "/v1/labs/monday-bo")).status == 404
    again = (await place.ask(ROOT, "POST", "/v1/classes/monday/tokens", {})).json["tokens"]
    assert again == list(handed.values())  # the same ones
    renew = {"students": ["ann", "ann"], "renew": True}  # who is named twice gets one token
    (new,) = (await place.ask(ROOT, "POST", "/v1/classes/monday/tokens", renew)).json["tokens"]
    assert new["token"] != handed["ann"]["token"]
    assert (await place.ask(authenticators["ann"], "GET", "/v1/labs")).status == 401
    assert (await place.ask(Entrance(token=new["token"]), "GET", "/v1/labs")).status == 200

    lease = "/v1/labs/monday-bo/lease"
    assert (await place.ask(ROOT, "PUT", lease, {"seconds": 60, "keep": 3600})).status == 200
    place.clock.go(120)
    async with asyncio.timeout(2 * LIMIT):
        while (await place.ask(authenticators["bo"], "GET", "/v1/labs")).status == 200:
            await asyncio.sleep(0.05)
    await place.daemon.idle()
    assert (await place.ask(ROOT, "POST", f"{lease}/extend", {"seconds": 3600})).status == 200
    assert (await place.ask(authenticators["bo"], "GET", "/v1/labs")).status == 200
    assert (await place.ask(ROOT, "DELETE", "/v1/classes/monday")).status == 202
    async with asyncio.timeout(4 * LIMIT):
        while await place.daemon.inventory.classes():
            await asyncio.sleep(0.05)
    assert [item.name for item in await place.daemon.inventory.tokens()] == ["anna"]


async def _made(place: Place, count: int) -> ClassRecord:
    async with asyncio.timeout(4 * LIMIT):
        while True:
            (found,) = await place.daemon.inventory.classes()
            if found.told and len(found.made) == count:
                return found
            await asyncio.sleep(0.05)


async def test_the_labs_of_an_instructors_class_are_the_instructors(place: Place) -> None:
    await own(place, "anna", "web")
    anna = await place.token("anna", Role.INSTRUCTOR)
    saved = await place.ask(
        anna, "POST", "/v1/labs/web/checkpoints", {"name": "saved", "mode": "live"}
    )
    assert saved.status == 202
    await place.daemon.idle()
    start = {"name": "monday", "checkpoint": "saved", "students": [{"name": "ann"}]}
    assert (await place.ask(anna, "POST", "/v1/classes", start)).status == 202
    await _made(place, 1)
    assert await place.names(anna, "/v1/labs", "labs") == ["monday-ann", "web"]
    assert await place.names(anna, "/v1/classes", "classes") == ["monday"]
    bob = await place.token("bob", Role.INSTRUCTOR)
    assert await place.names(bob, "/v1/labs", "labs") == []
    (token,) = (await place.ask(anna, "POST", "/v1/classes/monday/tokens", {})).json["tokens"]
    assert token["lab"] == "monday-ann"
    hidden = await place.ask(bob, "POST", "/v1/classes/monday/tokens", {})
    assert hidden.json["detail"] == "there is no class monday"
