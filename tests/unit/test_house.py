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
    # The supervisor loops: of operations, classes, guests' events and boots, plugins' changes
    # and handlers, the threads that enter namespaces and jails, and the host's memory.
    allowed = {
        "labd/features/classes/work.py",
        "labd/features/engine.py",
        "labd/features/memory/service.py",
        "labd/core/operations.py",
        "labd/features/plugins/service.py",
        "labd/features/labs/watch.py",
        "labd/host/threads.py",
        "labd/plugin/sdk.py",
    }
    assert [stray for stray in strays if stray.split(":")[0] not in allowed] == []
