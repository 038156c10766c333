"""What the pages promise is so: each is linked, and figures are those of the code."""

from __future__ import annotations

from pathlib import Path

from labd.hypervisor.monitor import DEADLINE
from labd.hypervisor.vm import HEARTBEAT

ROOT = Path(__file__).parents[2]


def test_the_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f"[{page}]({page})" not in text} == set()


def test_the_bound_for_noticing_a_hung_qemu_is_that_of_the_code() -> None:
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"`unresponsive` within {HEARTBEAT + DEADLINE:g} s" in text
    assert f"asked for its state every {HEARTBEAT:g} s and has {DEADLINE:g} s to answer" in text
