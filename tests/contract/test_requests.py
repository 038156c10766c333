"""What operations were asked for: stored, read strictly, and upgraded from rows without a version.

`golden/requests-0.json` has rows of each kind as the labd before version 1 wrote them, when they
were accepted and when their undoing had begun; `requests-1.json` has the same in version 1.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest

from labd.inventory import requests
from labd.model.checkpoints import SaveMode
from labd.model.errors import RequestUnreadable
from labd.model.machine import RunState
from labd.model.records import OperationKind, OperationRecord
from labd.model.request_kinds import StartRequest, UpRequest
from labd.model.requests import Request, Unreadable, class_of, register
from labd.model.states import NodeState, OperationState
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

GOLDEN = Path(__file__).parent / "golden"
OLD: list[dict[str, Any]] = json.loads((GOLDEN / "requests-0.json").read_text())
NEW: list[dict[str, Any]] = json.loads((GOLDEN / "requests-1.json").read_text())
K = OperationKind
START = next(row for row in NEW if row["kind"] == "start")


@pytest.mark.parametrize(("old", "new"), list(zip(OLD, NEW, strict=True)))
def test_rows_of_each_version_are_read_alike(old: dict[str, Any], new: dict[str, Any]) -> None:
    kind, request = requests.read(old["kind"], json.dumps(old["request"]))
    assert not isinstance(request, Unreadable), request
    assert (kind, request) == requests.read(new["kind"], json.dumps(new))
    assert kind is request.kind
    assert json.loads(requests.write(request)) == new


def test_each_kind_has_a_class_and_golden_rows() -> None:
    kinds = set(K) - {K.UNKNOWN}
    assert {kind for kind in K if class_of(kind) is not None} == kinds
    assert {row["kind"] for row in OLD} == {row["kind"] for row in NEW} == set(map(str, kinds))


def test_a_kind_has_one_class() -> None:
    with pytest.raises(ValueError, match="requests of kind up have two classes"):
        register(UpRequest)


def without(row: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("start", {**START, "starts": "a"}, "'starts' is wrong"),
        ("start", {**START, "starts": None}, "'starts' is wrong"),
        ("start", {**START, "starts": [1]}, "'starts.0' is wrong"),
        ("start", without(START, "starts"), "lacks the field 'starts'"),
        ("start", {**START, "stops": []}, "has the field 'stops'"),
        ("start", {**START, "memory": {"a": True}}, "'memory.a' is wrong"),
        ("start", {**START, "was": {"lab": "up", "nodes": {}}}, "'was.lab' is wrong"),
        ("start", {**START, "was": {"lab": "running"}}, "'was.nodes' is wrong"),
        ("start", {**START, "v": 2}, "is of version 2, and this labd reads 1"),
        ("start", {**START, "v": True}, "is of version True"),
        ("stop", START, "is a request of kind 'start'"),
        ("melt", {**START, "kind": "melt"}, "knows no operation 'melt'"),
        ("unknown", {}, "knows no operation 'unknown'"),
        ("start", [], "is no object"),
        ("start", {"nodes": ["a"]}, "lacks the field 'before'"),
        ("down", {"force": 1, "grace": 2.0}, "'force' is wrong"),
        ("down", {"force": False, "grace": float("nan")}, "'grace' is wrong"),
    ],
)
def test_what_no_labd_has_written_is_not_guessed_at(kind: str, row: object, why: str) -> None:
    text = json.dumps(row)
    found, request = requests.read(kind, text)
    assert found == (kind if kind != "melt" else "unknown")
    assert isinstance(request, Unreadable)
    assert why in request.why
    assert "\n" not in request.why
    assert requests.write(request) == text


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_text_that_is_no_json_is_kept(text: str) -> None:
    _, request = requests.read("start", text)
    assert isinstance(request, Unreadable)
    assert requests.write(request) == text


def test_a_request_is_had_as_its_own_class_only() -> None:
    operation = OperationRecord(id="op-1", kind=K.UP, lab="web", request=UpRequest())
    assert operation.request_as(UpRequest) is operation.request_as(Request) is operation.request
    with pytest.raises(RequestUnreadable, match="op-1 cannot be read: it is of another kind"):
        operation.request_as(StartRequest)


# by the daemon


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path, path=tmp_path / "labd.db") as it:
        yield it


async def died_in(
    home: FakeDaemon, call: str, asked: Awaitable[OperationRecord], changes: str
) -> str:
    """Have the daemon die at a call of an operation, and change the operation's row; its id."""
    home.crash.name = call
    operation = await asked
    await home.death()
    await home.kill_daemon()
    await home.inventory.close()
    with sqlite3.connect(home.path) as connection:
        connection.execute(
            f"UPDATE operations SET {changes} WHERE id=?",
            (operation.id,),
        )
    connection.close()
    await home.reopen()
    return operation.id


async def died_starting(home: FakeDaemon, changes: str) -> str:
    """Have the daemon die as it starts `a`, where `b` shall run, too, and has crashed."""
    await home.up(spec(node("a"), node("b")))
    await home.act(K.STOP, "a")
    home.host.die(await home.key("b"))
    await home.until("b", NodeState.CRASHED)
    asked = home.engine.labs.act(K.START, "web", ["a"], force=False, grace=20.0)
    return await died_in(home, "launch", asked, changes)


@pytest.mark.parametrize(
    "changes",
    [
        "request=json_set(request, '$.starts', 'a')",
        "request=json_remove(request, '$.starts')",
        "request='{'",
        "kind='melt'",
    ],
)
async def test_a_row_that_is_wrong_starts_no_node(home: FakeDaemon, changes: str) -> None:
    ident = await died_starting(home, changes)
    seq = await home.seq()
    recovered = await home.start()
    await home.idle()
    assert recovered.resumed == 0
    assert await home.states() == {"a": "stopped", "b": "crashed"}
    failed = await home.engine.operations.get(ident)
    assert failed.state is OperationState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "request_unreadable"
    assert f"{ident} cannot be read" in str(failed.error["message"])
    told = [line for line in await home.story(seq) if line.startswith("operation.")]
    assert told == [f"operation.failed {failed.kind}"]
    # The lab is free, and what is asked for now is done.
    await home.act(K.START)
    assert await home.states() == {"a": "ready", "b": "ready"}


async def test_a_row_without_a_version_is_carried_on(home: FakeDaemon) -> None:
    (old,) = (row for row in OLD if row["kind"] == "start" and row["request"]["before"] == ["a"])
    text = json.dumps({**old["request"], "nodes": ["a"], "starts": ["a"]})
    ident = await died_starting(home, f"request='{text}'")
    assert (await home.start()).resumed == 1
    await home.idle()
    assert (await home.engine.operations.get(ident)).state is OperationState.SUCCEEDED
    assert await home.states() == {"a": "ready", "b": "crashed"}


async def test_machines_whose_save_cannot_be_read_run_on(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    asked = home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message="")
    await died_in(home, "save", asked, "request=json_set(request, '$.was', 1)")
    home.host.machines[await home.key("a")].state = RunState.PAUSED
    await home.start()
    await home.until("a", NodeState.READY)
    assert home.host.machines[await home.key("a")].state is RunState.RUNNING
