"""No transaction waits for anything: there is one at a time, and every lab would wait along.

`tests/contract` holds the transactions that it runs to that at run time (`strict`); this reads the
sources, so that none is missed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_Found = ast.AsyncFunctionDef | ast.AsyncWith
# Who is called inside of transactions by a name that only the caller binds.
CALLBACKS = {"intent", "more"}


class Sources:
    """All coroutines below a folder, and what the attributes of its classes are."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.transactions: list[tuple[str, str, ast.AsyncWith]] = []
        self._methods: dict[tuple[str, str], list[tuple[str, ast.AsyncFunctionDef]]] = {}
        self._kinds: dict[tuple[str, str], str] = {}
        self._names: dict[str, list[tuple[str, str, ast.AsyncFunctionDef]]] = {}
        for file, text in texts.items():
            self._read(file, "", ast.parse(text))

    def _read(self, file: str, owner: str, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.ClassDef) else owner
            if isinstance(child, ast.AsyncFunctionDef):
                if isinstance(node, ast.ClassDef):
                    self._methods.setdefault((owner, child.name), []).append((file, child))
                else:
                    self._names.setdefault(child.name, []).append((file, owner, child))
            if isinstance(child, ast.FunctionDef) and child.name == "__init__":
                self._learn(owner, child)
            if isinstance(child, ast.AsyncWith) and any(map(_begins, child.items)):
                self.transactions.append((file, owner, child))
            self._read(file, inner, child)

    def _learn(self, owner: str, init: ast.FunctionDef) -> None:
        """Learn of which class the attributes are that `__init__` sets."""
        args = [*init.args.args, *init.args.kwonlyargs]
        kinds = {arg.arg: ast.unparse(arg.annotation) for arg in args if arg.annotation}
        for node in ast.walk(init):
            if isinstance(node, ast.Assign):
                made = node.value.func if isinstance(node.value, ast.Call) else node.value
                kind = kinds.get(ast.unparse(made), ast.unparse(made))
                for target in node.targets:
                    self._kinds[owner, ast.unparse(target)] = kind

    def waits(self, file: str, owner: str, node: _Found, seen: set[int]) -> Iterator[str]:
        """Yield what a block or coroutine waits for besides the inventory, followed all the way."""
        if id(node) in seen:
            return
        seen.add(id(node))
        for part in _own(node):
            if isinstance(part, ast.AsyncWith | ast.AsyncFor):
                yield f"{file}:{part.lineno}: {ast.unparse(part).splitlines()[0]}"
            elif isinstance(part, ast.Await):
                yield from self._awaited(file, owner, part, seen)

    def _awaited(self, file: str, owner: str, node: ast.Await, seen: set[int]) -> Iterator[str]:
        called = node.value.func if isinstance(node.value, ast.Call) else node.value
        target, _, name = ast.unparse(called).rpartition(".")
        if target == "tx" or target.endswith("inventory"):
            return
        if target == "self":
            found = [(at, owner, it) for at, it in self._methods.get((owner, name), [])]
        elif target:
            kind = self._kinds.get((owner, target), "")
            found = [(at, kind, it) for at, it in self._methods.get((kind, name), [])]
        else:
            found = self._names.get(name, [])
            if name not in CALLBACKS and any(at == file for at, *_ in found):
                found = [item for item in found if item[0] == file]
        if not found:
            yield f"{file}:{node.lineno}: {ast.unparse(called)}"
        for at, kind, function in found:
            yield from self.waits(at, kind, function, seen)


def _begins(item: ast.withitem) -> bool:
    text = ast.unparse(item.context_expr)
    return text.endswith((".transaction()", "self._waking()"))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a block that run with it, and not the functions that it defines."""
    left = list(ast.iter_child_nodes(node))
    while left:
        part = left.pop()
        if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield part
            left += ast.iter_child_nodes(part)


def everywhere() -> Sources:
    folders = [path for path in (ROOT / "labd").iterdir() if path.name not in {"cli", "client"}]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return Sources({str(path.relative_to(ROOT)): path.read_text() for path in sorted(files)})


def test_transactions_wait_for_the_inventory_only() -> None:
    sources = everywhere()
    seen: set[int] = set()
    strays = [
        stray
        for file, owner, block in sources.transactions
        for stray in sources.waits(file, owner, block, seen)
        # The mark of a test before a commit; and the way of `_waking` to its caller's block.
        if "self._failpoints.reach" not in stray
    ]
    assert strays == []
    assert len(sources.transactions) > 50


@pytest.mark.parametrize(
    ("text", "stray"),
    [
        ("await quick(work)", "x.py:5: quick"),
        ("await self.far()", "x.py:7: asyncio.sleep"),
        ("await self._other.far()", "y.py:3: self._disk.read"),
        ("async for x in y: pass", "x.py:5: async for x in y:"),
        ("await tx.put(await self._inventory.lab())", None),
    ],
)
def test_the_look_finds_what_waits(text: str, stray: str | None) -> None:
    sources = Sources(
        {
            "x.py": (
                "class A:\n def __init__(self, other: B): self._other = other\n"
                " async def f(self):\n  async with self._inventory.transaction() as tx:\n"
                f"   {text}\n"
                " async def far(self):\n  await asyncio.sleep(1)\n"
            ),
            "y.py": "class B:\n async def far(self):\n  await self._disk.read()\n",
        }
    )
    ((file, owner, block),) = sources.transactions
    found = list(sources.waits(file, owner, block, set()))
    assert found == ([] if stray is None else [stray])
