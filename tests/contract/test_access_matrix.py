"""Role x route x (own, another's, missing): every cell, on the app's own routes.

Who may use which route stands here a second time, by hand: `WHO`. A route that is not in it fails
the matrix, so that nobody adds one without saying who may use it. Behind the routes stands an
engine that does nothing, so that each cell tells what the gate has let through.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labd.api.app import AppSettings
from labd.api.callers import Caller
from labd.api.limits import Bounds
from labd.api.rules import Scope, rule_of
from labd.api.services import Services, attach
from labd.features.app import ROUTERS, make_app
from labd.model.checkpoints import SaveMode
from labd.model.classes import ClassRecord
from labd.model.errors import Conflict
from labd.model.people import Role, asking, on_behalf
from labd.model.records import Wanted
from tests.contract.asgi import ADMIN, PEOPLE, PLUGINS, Answer, Entrance, ask
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec
from tests.fakes.templates import hello_only

# Route -> who may use it, besides administrators: i(nstructors), s(tudents).
WHO = {
    "openapi": "is",
    "get_info": "is",
    "get_caller": "is",
    "list_tokens": "",
    "create_token": "",
    "revoke_token": "",
    "hand_out_tokens": "i",
    "get_doctor": "",
    "get_differences": "",
    "repair": "",
    "validate_template": "i",
    "get_template_schema": "i",
    "list_template_parameters": "i",
    "list_templates": "i",
    "get_template": "i",
    "list_labs": "is",
    "get_lab": "is",
    "list_addresses": "is",
    "up_lab": "i",
    "plan_lab": "i",
    "act_on_lab": "is",
    "get_node": "is",
    "get_node_lines": "is",
    "get_node_log": "is",
    "attach_console": "is",
    "list_disks": "i",
    "add_disk": "i",
    "detach_disk": "i",
    "set_cdrom": "i",
    "add_node": "i",
    "remove_node": "i",
    "get_usage": "i",
    "get_lab_usage": "i",
    "execute": "is",
    "read_file": "is",
    "write_file": "is",
    "get_screenshot": "is",
    "type_keys": "is",
    "attach_viewer": "is",
    "attach_capture": "i",
    "list_links": "is",
    "set_links": "i",
    "reset_links": "i",
    "list_wires": "is",
    "set_wires": "i",
    "reset_wires": "i",
    "get_ssh_key": "is",
    "attach_node_port": "is",
    "attach_host_port": "is",
    "list_operations": "is",
    "get_operation": "is",
    "list_events": "is",
    "list_checkpoints": "i",
    "get_checkpoint": "i",
    "export_checkpoint": "i",
    "import_checkpoint": "i",
    "save_checkpoint": "i",
    "remove_checkpoint": "i",
    "fork_checkpoint": "i",
    "turn_chapter": "i",
    "restore_lab": "is",
    "list_pools": "i",
    "get_pool": "i",
    "warm_pool": "i",
    "cool_pool": "i",
    "list_classes": "i",
    "get_class": "i",
    "start_class": "i",
    "add_students": "i",
    "extend_class": "i",
    "stop_class": "i",
    "destroy_class": "i",
    "list_leases": "i",
    "get_lease": "is",
    "set_lease": "i",
    "extend_lease": "i",
    "cancel_lease": "i",
    "list_activity": "is",
    "get_activity": "is",
    "warn_lab": "i",
    "list_images": "i",
    "get_image": "i",
    "upload_image": "",
    "import_image": "",
    "build_image": "",
    "remove_image": "",
    "list_profiles": "i",
    "get_profile": "i",
    "add_profile": "",
    "remove_profile": "",
    "list_plugins": "",
    "set_plugin": "",
    "get_plugin_log": "",
}
# Routes that make the object of their path: what is missing is let through, another's is taken.
MAKES = {"up_lab", "plan_lab", "import_checkpoint"}
UPLOADS = {"upload_image", "import_checkpoint", "write_file"}
# What a parameter of a path is, by whose it is; of all others there is no more than one.
OBJECTS = {
    "labs": {"own": "anna", "foreign": "bob", "missing": "nobody"},
    "classes": {"own": "of-anna", "foreign": "of-bob", "missing": "of-nobody"},
    "checkpoints": {"own": "anna-saved", "foreign": "bob-saved", "missing": "nobody-saved"},
}
OBJECTS["pools"] = OBJECTS["checkpoints"]
REST = {"node": "a", "disk": "d", "template": "hello", "image": "i", "profile": "p", "plugin": "w"}
NO_BOUNDS = Bounds(rate=1e9, burst=1_000_000, streams=1_000, commands=1_000, under_way=1_000)
SCOPES = [scope for scope in Scope if scope is not Scope.ANY]
PLUGIN_MAY = [scope for scope in SCOPES if scope is not Scope.PEOPLE_ADMIN]


PEOPLE_WHO_OWN = {"administrator", "instructor", "student", "plugin with all scopes", "nobody"}


SCOPE_OF = {
    str(getattr(route, "name", "")): rule_of(route).scope
    for router in ROUTERS
    for route in router.routes
}


class Reached(Conflict):
    """The gate has let a request through to the engine."""

    code = "reached"


class Doorstep:
    """A service, whatever it is asked: what the gate itself asks is real, and is no service."""

    def __getattr__(self, name: str) -> Doorstep:
        return Doorstep()

    def __call__(self, *_: object, **__: object) -> Doorstep:
        raise Reached("reached")


class Doorsteps(Services):
    """The services of an app of which only the gate is real."""

    def get(self, kind: type[Any]) -> Any:
        return Doorstep()


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route as the app has it."""

    name: str
    method: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Town:
    """Two instructors with what is theirs, and who comes to the doors."""

    app: Any
    daemon: FakeDaemon
    callers: dict[str, Entrance]
    operations: dict[str, str]


def routes(app: Any) -> list[Route]:
    """Return all routes of the app, of whatever router."""
    found = []

    def walk(items: list[Any]) -> Iterator[Any]:
        for item in items:
            inner = getattr(item, "original_router", None)
            if inner is not None:
                yield from walk(inner.routes)
            else:
                yield item

    for item in walk(app.routes):
        methods = getattr(item, "methods", None) or {"WS"}
        path = item.path if item.name == "openapi" else f"/v1{item.path.removeprefix('/v1')}"
        found += [Route(name=item.name, method=method, path=path) for method in methods - {"HEAD"}]
    return found


def plugin(token: str) -> Caller | None:
    """Know plugins: `all`, `none`, or one scope."""
    if token == "all":  # people:admin is nothing that a manifest could give
        return Caller(name="plugin all", scopes=frozenset(map(str, SCOPES)))
    given = {scope for scope in map(str, SCOPES) if scope == token}
    return (
        Caller(name=f"plugin {token}", scopes=frozenset(given)) if given or token == "-" else None
    )


async def things(it: FakeDaemon, owner: str) -> str:
    """Give an owner a lab, a class and a checkpoint; return the operation that made the lab."""
    with asking(on_behalf(owner)):
        made = await it.up(spec(node("a")), owner)
        await it.ok(
            it.engine.checkpoints.save(owner, f"{owner}-saved", mode=SaveMode.LIVE, message="")
        )
    async with it.inventory.transaction() as tx:
        (saved,) = [c for c in await it.inventory.checkpoints() if c.name == f"{owner}-saved"]
        group = ClassRecord(
            name=f"of-{owner}",
            checkpoint=saved.key,
            source=saved.name,
            students=(),
            wanted=Wanted.STOPPED,
            owner=owner,
        )
        await tx.put_class(group)
    return made.id


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with engine_over_fakes(tmp_path) as it:
        operations = {"own": await things(it, "anna"), "foreign": await things(it, "bob")}
        create = it.engine.access.create
        anna = await create("anna", Role.INSTRUCTOR, (), None)
        pupil = await create("pupil", Role.STUDENT, ("anna",), 3600)
        root = await create("chief", Role.ADMINISTRATOR, (), None)
        settings = AppSettings(
            version="0", tokens=plugin, admin_socket=Path(ADMIN[0]), student=NO_BOUNDS
        )
        app = make_app(it.engine, hello_only(tmp_path), settings)
        attach(app, Doorsteps((), version="0"))
        callers = {
            "administrator": Entrance(server=ADMIN),
            "administrator by token": Entrance(token=root.token),
            "root at people.sock": Entrance(server=PEOPLE, uid=0),
            "instructor": Entrance(token=anna.token),
            "student": Entrance(token=pupil.token),
            "nobody": Entrance(),
            "a user of the host": Entrance(server=PEOPLE),
            "a plugin's token elsewhere": Entrance(server=PEOPLE, token="all"),
            "a student's token at plugin.sock": Entrance(server=PLUGINS, token=pupil.token),
            "plugin with all scopes": Entrance(server=PLUGINS, token="all"),
            "plugin without a scope": Entrance(server=PLUGINS, token="-"),
            **{
                f"plugin {scope}": Entrance(server=PLUGINS, token=str(scope))
                for scope in PLUGIN_MAY
            },
        }
        operations["missing"] = "op-000000000000"
        yield Town(app=app, daemon=it, callers=callers, operations=operations)


def body_of(route: Route) -> object:
    """Return a body of the right type, which is too little for any route that takes one."""
    if route.name in UPLOADS:
        return b""
    return None if route.method in {"GET", "WS"} else {}


def targets(route: Route, operations: dict[str, str]) -> dict[str, str]:
    """Return whose -> path; `none` where nothing is somebody's."""
    parts = route.path.split("/")
    owned = operations if parts[2:3] == ["operations"] else OBJECTS.get("".join(parts[2:3]))
    fixed = [REST.get(part.strip("{}"), part) for part in parts]
    if owned is None or len(parts) < 4 or not parts[3].startswith("{"):
        return {"none": "/".join(part.strip("{}") for part in fixed)}
    return {whose: "/".join([*fixed[:3], name, *fixed[4:]]) for whose, name in owned.items()}


def of_plugin(route: Route, caller: str) -> str:
    if caller == "plugin with all scopes":
        may = SCOPE_OF.get(route.name) is not Scope.PEOPLE_ADMIN
    else:
        needs = SCOPE_OF.get(route.name, Scope.ANY)
        has = caller.removeprefix("plugin ")
        more = {"labs:control": "labs:read", "images:write": "images:read"}
        may = needs is Scope.ANY or needs in {has, more.get(has)}
    return "through" if may else "forbidden"


def expected(route: Route, caller: str, whose: str) -> str:
    """Return what a cell must say, by the table above alone."""
    if caller.startswith(("administrator", "root")):
        return "through"
    if caller.startswith("plugin "):
        return of_plugin(route, caller)
    if caller not in {"instructor", "student"}:
        return "stranger"
    if caller[0] not in WHO[route.name]:
        return "forbidden"
    if whose in {"own", "none"}:
        return "through"
    if route.name in MAKES:
        return "through" if whose == "missing" else "taken"
    return "hidden"


def seen(answer: Answer) -> str:
    """Return what a cell says."""
    if answer.code == "reached":
        return "through"
    if answer.code == "conflict" and "is taken" in answer.json["detail"]:
        return "taken"
    names = {401: "stranger", 403: "forbidden", 404: "hidden"}
    return names.get(answer.status, "through" if answer.status in {101, 200, 422} else "odd")


async def test_every_route_is_open_to_whom_it_shall_be(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    every = routes(town.app)
    assert {route.name for route in every} == set(WHO)
    cells: Counter[str] = Counter()
    wrong = []
    for route in every:
        body = body_of(route)
        for index, (whose, path) in enumerate(targets(route, town.operations).items()):
            for caller, door in town.callers.items():
                if index and caller not in PEOPLE_WHO_OWN:
                    continue  # whose it is makes no difference to them
                answer = await ask(town.app, door, route.method, path, body)
                wanted, found = expected(route, caller, whose), seen(answer)
                cells[found] += 1
                if found != wanted:
                    wrong.append(
                        f"{caller}: {route.method} {path} ({whose}): {found} "
                        f"({answer.status} {answer.code}), not {wanted}"
                    )
    assert wrong == []
    with capsys.disabled():
        counts = ", ".join(f"{count} {name}" for name, count in sorted(cells.items()))
        sys.stdout.write(
            f"\naccess matrix: {len(every)} routes, {cells.total()} cells ({counts})\n"
        )


@pytest.mark.parametrize("caller", ["instructor", "student"])
async def test_what_is_anothers_and_what_is_missing_look_the_same(town: Town, caller: str) -> None:
    for route in routes(town.app):
        paths = targets(route, town.operations)
        if caller[0] not in WHO[route.name] or route.name in MAKES or "foreign" not in paths:
            continue
        body = body_of(route)
        told = []
        for whose in ("foreign", "missing"):
            answer = await ask(town.app, town.callers[caller], route.method, paths[whose], body)
            name = paths[whose].split("/")[3]
            told.append((answer.status, answer.body.replace(name.encode(), b"NAME")))
        assert told[0] == told[1], route
