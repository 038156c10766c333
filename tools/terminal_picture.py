"""Draw docs/terminal.svg: a real session at a real terminal, on a labd of its own.

    python -m tools.terminal_picture [FILE]

The commands are typed into bash at a pseudo-terminal, a terminal emulator (pyte) keeps what it
would show, and rich draws it. The picture has no font of its own and fetches none.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Final

import pexpect
import pyte
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tools.run_page import ROOT, Shell

_WIDTH: Final = 92
_PROMPT: Final = "$ "
_PATIENCE: Final = 600  # seconds for a command: software emulation on a busy host
COMMANDS: Final = (
    "lab up lab-templates/two-tier.yaml",
    "lab exec two-tier/client -- ping -c 1 server",
    "lab checkpoint save two-tier ready",
    "lab fork ready alice",
    "lab fork ready bob",
    "lab ls",
)
_CELL: Final = 12.2  # what rich takes a cell to be wide
_PADDED: Final = re.compile(
    r' x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"(?=[^>]*>((?:&#160;)+))([^>]*>)(?:&#160;)+'
)
# Names of pyte that rich calls otherwise.
_COLOURS: Final = {"brown": "yellow", "default": "default"}
_FRAME: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def session(folder: Path, home: Path) -> pyte.Screen:
    """Type the commands at a terminal; return what it shows in the end.

    Raises:
        pexpect.ExceptionPexpect: A command did not come to its end.
    """
    screen = pyte.Screen(_WIDTH, 200)
    stream = pyte.Stream(screen)
    environment = {
        "PATH": f"{ROOT / '.venv' / 'bin'}:/usr/bin:/bin",
        "HOME": str(home),
        "LABD_ROOT": str(home / "labd"),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm-256color",
        "PS1": _PROMPT,
    }
    child = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile"],
        cwd=str(folder),
        env=environment,
        encoding="utf-8",
        timeout=_PATIENCE,
        dimensions=(200, _WIDTH),
    )
    try:
        child.expect_exact(_PROMPT)
        stream.feed(_PROMPT)
        for command in COMMANDS:
            child.sendline(command)
            child.expect(r"\n(?:\x1b\[\?2004h)?\$ $")
            stream.feed(f"{child.before}\n{_PROMPT}")
    finally:
        child.close(force=True)
    return screen


def drawn(screen: pyte.Screen) -> str:
    """Return a picture of all lines but the last prompt."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(width=_WIDTH, record=True, file=nowhere, force_terminal=True)
        for y in range(screen.cursor.y):
            line = Text()
            cells = [screen.buffer[y][x] for x in range(_WIDTH)]
            for (colour, bold), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
                words = "".join(cell.data for cell in run)
                line.append(words, Style(color=_colour(colour), bold=bold))
            line.rstrip()
            if line.plain.startswith(_PROMPT):
                line.stylize("bold", len(_PROMPT))
            console.print(line)
        return _indented(console.export_svg(title="labd", code_format=_FRAME, unique_id="labd"))


def _indented(svg: str) -> str:
    """Return a picture in which no text begins with blanks, which some viewers leave out."""

    def move(found: re.Match[str]) -> str:
        blanks = len(found[4]) // len("&#160;")
        width = _CELL * blanks
        x, length = float(found[1]) + width, float(found[3]) - width
        return f' x="{x:g}" {found[2]} textLength="{length:g}"{found[5]}'

    return _PADDED.sub(move, svg)


def _colour(name: str) -> Color:
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return Color.parse(f"#{name}")
    return Color.parse(_COLOURS.get(name, name.replace("bright", "bright_")))


def main() -> int:
    """Draw into the file that is named."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "terminal.svg"
    with tempfile.TemporaryDirectory(prefix="labd-picture-") as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - machines' users pass through
        home, folder = Path(scratch, "root"), Path(scratch, "labd")
        home.mkdir()
        folder.mkdir()
        shell = Shell(folder, home)
        shell.prepare()
        try:
            shell.run(". .venv/bin/activate; export LABD_ROOT=~/labd", "")
            shell.run("labd serve --root ~/labd", "daemon")
            shell.run("lab image build tiny", "")
            target.write_text(drawn(session(folder, home)), encoding="utf-8")
        finally:
            shell.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
