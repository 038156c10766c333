"""The house rules that import-linter's layers do not say, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A library, and the only places that may import it.
OWNERS = {
    "qemu": ("labd/drivers/node/qemu/",),
    "pyroute2": ("labd/drivers/network/linux/",),
    "aiosqlite": ("labd/inventory/",),
    "sqlite3": ("labd/inventory/",),
    "aiomqtt": ("labd/events/",),
    "fastapi": ("labd/api/", "labd/features/"),
    "uvicorn": ("labd/api/",),
    "subprocess": ("labd/host/spawn.py",),
    "multiprocessing": (),
}
# Where a module may import from labd, besides itself.
MAY_IMPORT = {
    "labd/cli/": ("labd.client", "labd.model", "labd.cli"),
    "labd/client/": ("labd.model", "labd.client"),
    "plugins/": ("labd.plugin", "labd.client"),
}


def sources(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_is_imported_by_its_owner_only(library: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources("labd")
        for line, name in imports(path)
        if within(name, library)
        and not str(path.relative_to(ROOT)).startswith(OWNERS[library] or ("\0",))
    ]
    assert strays == []


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_the_outer_rooms_know_the_client_only(folder: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources(folder)
        for line, name in imports(path)
        if within(name, "labd")
        and name != "labd.__version__"
        and not any(within(name, allowed) for allowed in MAY_IMPORT[folder])
    ]
    assert strays == []


FEATURES = ROOT / "labd/features"


def feature_imports() -> Iterator[tuple[str, str, str]]:
    """Yield feature, other feature, and the place, for each import across features."""
    for path in sorted(FEATURES.glob("*/*.py")):
        for line, name in imports(path):
            parts = name.split(".")
            if parts[:2] != ["labd", "features"] or len(parts) < 3 or parts[2] == path.parent.name:
                continue
            yield path.parent.name, parts[2], f"{path.relative_to(ROOT)}:{line} {name}"


def test_a_feature_imports_another_by_what_its_init_exports_only() -> None:
    strays = []
    for _, other, place in feature_imports():
        exported = ast.parse((FEATURES / other / "__init__.py").read_text())
        names = {
            alias.asname or alias.name
            for node in exported.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        if place.rpartition(".")[2] not in names or place.count(".") != 4:
            strays.append(place)
    assert strays == []


def test_the_graph_of_the_features_has_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for feature, other, _ in feature_imports():
        graph.setdefault(feature, set()).add(other)
    left = {name: set(others) for name, others in graph.items()}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert left == {}, "these features import each other in a circle, or stand above one"


@pytest.mark.parametrize("room", ["core", "api"])
def test_core_and_api_know_no_feature(room: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources(f"labd/{room}")
        for line, name in imports(path)
        if within(name, "labd.features")
    ]
    assert strays == []


@pytest.mark.parametrize("kind", ["node", "storage", "network"])
def test_drivers_of_one_kind_never_import_each_other(kind: str) -> None:
    strays = []
    drivers = {path.name for path in (ROOT / "labd/drivers" / kind).iterdir() if path.is_dir()}
    for path in sources(f"labd/drivers/{kind}"):
        own = path.relative_to(ROOT / "labd/drivers" / kind).parts[0]
        for line, name in imports(path):
            parts = name.split(".")
            if parts[:3] == ["labd", "drivers", kind] and parts[3] in drivers - {own}:
                strays.append(f"{path.relative_to(ROOT)}:{line} {name}")
    assert strays == []


# Words that a path to a disk of a machine, an image's disk or a layer would have in it.
DISK_FOLDERS = {"nodes", ".layers"}


def test_nobody_but_the_local_storage_joins_paths_of_disks() -> None:
    allowed = {
        "labd/model/paths.py",  # the folders of a root, made at the start
        "labd/core/adapters.py",  # `node_folder`: small files of a machine, such as UEFI variables
    }
    strays = []
    for path in sources("labd"):
        place = str(path.relative_to(ROOT))
        if place.startswith("labd/drivers/storage/local/") or place in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
                continue
            right = node.right
            if isinstance(right, ast.Constant) and right.value in DISK_FOLDERS:
                strays.append(f"{place}:{node.lineno} joins {right.value!r}")
            if ".qcow2" in ast.unparse(right):
                strays.append(f"{place}:{node.lineno} joins the name of a disk")
    assert strays == []


@pytest.mark.parametrize("room", ["core", "features"])
def test_features_and_core_know_no_driver_but_by_its_port(room: str) -> None:
    drivers = {
        f"labd.drivers.{path.parent.name}.{path.name}"
        for path in (ROOT / "labd/drivers").glob("*/*")
        if path.is_dir() and path.name != "__pycache__"
    }
    assert "labd.drivers.node.qemu" in drivers
    strays = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources(f"labd/{room}")
        for line, name in imports(path)
        if any(within(name, driver) for driver in drivers)
    ]
    assert strays == []


def test_no_broad_except_outside_a_supervisor() -> None:
    strays = []
    for path in sources("labd"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = node.type
            broad = caught is None or (
                isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"}
            )
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if broad and not reraises:
                strays.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    # What supervises: loops and tasks, operations, the handlers of plugins, connections that are
    # relayed, and the threads that enter namespaces and jails.
    allowed = {
        "labd/client/relay.py",
        "labd/core/operations.py",
        "labd/host/supervision.py",
        "labd/host/threads.py",
        "labd/plugin/sdk.py",
    }
    assert [stray for stray in strays if stray.split(":")[0] not in allowed] == []


# Who may make a task that `labd.host.supervision` does not run: each takes the task's outcome, so
# that a fault is heard. A loop, and whatever nobody waits for, goes through `TaskSupervisor`.
TASKS = {
    "labd/host/supervision.py:supervise": "this is it",
    "labd/host/supervision.py:spawn": "this is it",
    "labd/api/gate.py:_pass": "raises what the request raised",
    "labd/features/capture/routes.py:_stream": "ends by cancel_copies",
    "labd/features/console/routes.py:_converse": "raises what either way raised",
    "labd/features/screens/routes.py:_relay": "ends by cancel_copies",
    "labd/features/connect/routes.py:_both": "ends by cancel_copies",
    "labd/api/server.py:serving": "the end is counted, and raised when labd stops",
    "labd/api/waiting.py:until_closing": "returns what the work returned",
    "labd/features/labs/converge.py:_await_running": "waited for by wait_all",
    "labd/features/labs/converge.py:bring_up": "waited for by wait_all",
    "labd/core/operations.py:breakable": "waited for; a fault is the operation's",
    "labd/drivers/storage/local/disks.py:attach": "waited for; a file opened for nobody is closed",
    "labd/features/labs/readiness.py:watch": "ReadinessKeeper._done counts a fault",
    "labd/events/publisher.py:_send": "of the session's task group",
    "labd/events/publisher.py:_send_all": "of the session's task group",
    "labd/events/publisher.py:run": "of the session's task group",
    "labd/host/commands.py:_outcome": "a task group",
    "labd/drivers/node/qemu/console.py:wait": "raises what the search raised",
    "labd/drivers/node/qemu/monitor.py:_disconnect": "waited for",
    "labd/drivers/node/qemu/monitor.py:execute": "returns the answer; a late one is looked at",
    "labd/drivers/node/qemu/process.py:readable": "waits for an event",
    "labd/drivers/node/qemu/qemu.py:_come_up": "waited for, and its error raised",
    "labd/drivers/node/qemu/qemu.py:_start": "waited for",
    "labd/drivers/node/qemu/snapshots.py:_news": "waits for events",
    "labd/images/download.py:fetch": "waited for",
    "labd/inventory/database.py:to_the_end": "raises what the work raised",
    "labd/drivers/network/linux/packets.py:_wait": "waits for an event",
}
_MAKERS = {"create_task", "ensure_future", "TaskGroup"}


def tasks_made(path: Path) -> Iterator[str]:
    """Yield `file:function` for each task that is made in a file."""
    for outer in ast.walk(ast.parse(path.read_text())):
        if not isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(outer):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            name = node.id if isinstance(node, ast.Name) else name
            if name in _MAKERS:
                yield f"{path.relative_to(ROOT)}:{outer.name}"


def test_no_task_without_somebody_who_hears_of_its_end() -> None:
    made = {place for path in sources("labd") for place in tasks_made(path)}
    assert made - TASKS.keys() == set()
    assert TASKS.keys() - made == set()
