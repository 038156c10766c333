"""The site: links lead where its pages are, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import site_assets, site_hooks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "place", "text", "expected"),
    [
        ("README.md", "index.md", "[a](docs/cli.md#x)", "[a](cli.md#x)"),
        ("README.md", "index.md", "![a](docs/labd.svg)", "![a](labd.svg)"),
        ("README.md", "index.md", "[a](lab-templates)", "[a](templates.md)"),
        ("docs/cli.md", "cli.md", "[a](../SECURITY.md)", "[a](security.md)"),
        ("docs/cli.md", "cli.md", "[a](../plugins/idle/README.md)", "[a](plugins/idle.md)"),
        (
            "plugins/idle/README.md",
            "plugins/idle.md",
            "[a](../../docs/leases.md#b)",
            "[a](../leases.md#b)",
        ),
        ("docs/cli.md", "cli.md", "[a](https://example.org/cli.md)", None),
        ("docs/cli.md", "cli.md", "[a](#b)", None),
        # Left as it is, so that the strict build complains.
        ("docs/cli.md", "cli.md", "[a](nowhere.md)", None),
        ("docs/cli.md", "cli.md", "```\n[a](../SECURITY.md)\n```", None),
        # A code fence may hold what looks like a row; a row may hold escaped bars in code.
        ("docs/cli.md", "cli.md", "| `a\\|b` |", "| `a|b` |"),
        ("docs/cli.md", "cli.md", "```\n| `a\\|b` |\n```", None),
    ],
)
def test_links_of_the_repository_are_led_into_the_site(
    source: str, place: str, text: str, expected: str | None
) -> None:
    assert site_hooks.rewrite(text, source, place) == (text if expected is None else expected)


def test_the_navigation_names_every_page() -> None:
    named = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    pages |= {place for place in site_hooks.PAGES.values() if place.endswith(".md")}
    assert sorted(named) == sorted(pages)


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/x">', "fetches //fonts.example/x"),
        ('<link rel="preconnect" href="http://fonts.example">', "fetches http://fonts.example"),
        ('<img src="http://a.example/b.png">', "fetches http://a.example/b.png"),
        ("<style>@import 'https://a.example/b.css';</style>", "fetches https://a.example/b.css"),
        ('<p style="background: url(//a.example/b)">', "fetches //a.example/b"),
        ('<a href="gone.html">', "leads to gone.html, which is not there"),
        ('<a href="#gone">', "leads to #gone, where nothing has that name"),
    ],
)
def test_what_a_page_fetches_from_elsewhere_is_found(
    tmp_path: Path, page: str, complaint: str
) -> None:
    (tmp_path / "index.html").write_text(page)
    assert site_assets.complaints(tmp_path) == [f"index.html: {complaint}"]


def test_a_style_sheet_and_a_picture_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("p { src: url('https://a.example/f.woff2') }")
    (tmp_path / "b.svg").write_text('<svg><style>@import "https://a.example/f";</style></svg>')
    assert site_assets.complaints(tmp_path) == [
        "a.css: fetches https://a.example/f.woff2",
        "b.svg: fetches https://a.example/f",
    ]


def test_links_that_wait_for_a_reader_are_no_fetches(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c d.html").write_text('<p id="e">')
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://a.example/">'
        '<a href="https://a.example/">x</a><a href="b/c%20d.html#e">y</a>'
    )
    assert site_assets.complaints(tmp_path) == []
