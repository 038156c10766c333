"""What the pages promise is so: each is linked, and figures are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from labd.drivers.node.qemu.monitor import DEADLINE
from labd.drivers.node.qemu.vm import HEARTBEAT
from tools.docs_tables import stale

ROOT = Path(__file__).parents[2]


def test_the_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f"[{page}]({page})" not in text} == set()


def test_the_bound_for_noticing_a_hung_qemu_is_that_of_the_code() -> None:
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"`unresponsive` within {HEARTBEAT + DEADLINE:g} s" in text
    assert f"asked for its state every {HEARTBEAT:g} s and has {DEADLINE:g} s to answer" in text


def test_every_test_that_a_guarantee_names_is_there() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`([a-z]+/\w+\.py)(?:::(\w+))?`", text)
    assert {path.partition("/")[0] for path, _ in named} >= {"system", "faults", "hostile"}
    rows = [line for line in text.splitlines() if re.match(r"\| [A-Z]", line)]
    assert [row for row in rows if ".py" not in row] == [], "a promise that no test holds"
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (file := ROOT / "tests" / path).is_file()
        or (test and f"def {test}(" not in file.read_text())
    ]
    assert missing == []


def test_tables_that_are_made_of_the_code_are_up_to_date() -> None:
    assert list(stale()) == [], "make docs-tables writes them"
