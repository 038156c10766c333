"""The picture of a terminal is of the commands that `make picture` types, and fetches nothing."""

from __future__ import annotations

import re
from html import unescape

import pyte

from tools.run_page import ROOT
from tools.site_assets import complaints
from tools.terminal_picture import COMMANDS, drawn


def words(svg: str) -> str:
    """Return the text of a picture, line by line as it stands there."""
    lines: dict[str, str] = {}
    form = r'<text class="labd-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)'
    for x, y, text in re.findall(form, svg):
        before = lines.get(y, "").ljust(round(float(x) / 12.2))
        lines[y] = before + unescape(text).replace("\xa0", " ")
    return "\n".join(line.rstrip() for line in lines.values())


def test_the_picture_is_of_these_commands() -> None:
    shown = words((ROOT / "docs" / "terminal.svg").read_text())
    typed = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
    assert tuple(typed) == COMMANDS, "run `make picture`"
    assert "two-tier is up" in shown


def test_what_a_terminal_shows_is_drawn_with_its_colours() -> None:
    screen = pyte.Screen(92, 10)
    pyte.Stream(screen).feed("$ lab ls\r\n\x1b[32mgone\x1b[2K\r\x1b[1;31mred\x1b[0m plain\r\n$ ")
    svg = drawn(screen)
    assert words(svg) == "$ lab ls\nred plain"
    assert "gone" not in svg
    assert "font-weight: bold" in svg
    assert ">&#160;" not in svg, "some viewers leave blanks at the begin of a text out"


def test_the_picture_fetches_nothing() -> None:
    assert [line for line in complaints(ROOT / "docs") if line.startswith("terminal.svg")] == []
