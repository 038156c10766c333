"""The counts of `tools/house.py`, on a tree of which they are known, and on a lab that comes up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.house import ROOT, Counts, Sources, module_of, record_up

LONG = "def long() -> int:\n" + "    x = 1\n" * 50 + "    return x\n"
TREE = {
    "labd/__init__.py": '"""The package."""\n',
    "labd/a.py": "from labd import b\nfrom labd.c import nothing, some\nimport os\n",
    "labd/b.py": "import labd.c\n\n\ndef one() -> None:\n    from labd.d.e import f\n",
    "labd/c.py": LONG + "\n" * 349,  # 52 lines of a function, 401 of the file
    "labd/d/__init__.py": "",
    "labd/d/e.py": "def outer() -> None:\n    def inner() -> None:\n        pass\n",
    "other/x.py": "import labd.b\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_what_a_small_tree_has(tree: Path) -> None:
    assert Sources(tree).count() == Counts(
        files=6,
        imported_by_one=2,  # b by a, d.e by b; c is imported by two
        files_over_400_lines=1,
        functions_over_50_lines=1,
        file_lines_median=3,
        file_lines_max=401,
        function_lines_median=2.5,
        function_lines_max=52,
        modules_with_over_15_imports=0,
    )


def test_an_import_is_of_the_module_it_names(tree: Path) -> None:
    sources = Sources(tree)
    assert sources.imports("labd.a") == {"labd.b", "labd.c"}
    assert sources.imports("labd.b") == {"labd.c", "labd.d.e"}
    names = [f"m{number}" for number in range(16)]
    for name in names:
        (tree / f"labd/{name}.py").write_text("")
    (tree / "labd/many.py").write_text(f"from labd import {', '.join(names)}\n")
    assert Sources(tree).count().modules_with_over_15_imports == 1


def test_a_file_is_a_module() -> None:
    assert module_of(Path("labd/d/__init__.py")) == "labd.d"
    assert module_of(Path("labd/d/e.py")) == "labd.d.e"


def test_json_has_what_the_table_has(tree: Path) -> None:
    def run(*args: str) -> str:
        command = [sys.executable, "-m", "tools.house", "--no-run", "--root", str(tree), *args]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    found = json.loads(run("--json"))
    assert found["files"] == 6
    lines = [line.rsplit(maxsplit=1) for line in run().splitlines()]
    assert {name.replace(" ", "_"): float(value) for name, value in lines} == found


def test_what_lab_up_passes_is_what_runs_for_it() -> None:
    seen = record_up()
    assert {"labd.cli.verbs.up", "labd.client.client"} <= seen.cli
    assert not any(name.startswith(("labd.api", "labd.features", "labd.core")) for name in seen.cli)
    assert {"labd.template.compile", "labd.inventory.sqlite"} <= seen.daemon
    assert not any(name.startswith(("labd.cli", "labd.client")) for name in seen.daemon)
    assert not any("checkpoint" in name and name.endswith("saving") for name in seen.daemon)
    assert seen.moves > len(seen.cli | seen.daemon)
    assert sys.getprofile() is None
