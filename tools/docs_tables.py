"""Write the tables of the documentation that are made of the code's declarations.

`python -m tools.docs_tables` writes them between their markers; `--check` only tells which
pages are not up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from labd.model.impairment import DECLARED

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table of Markdown; a pipe inside a cell must be escaped."""
    return _row(head) + _row("---" for _ in head) + "".join(map(_row, rows))


def impairments() -> str:
    """Return what can be done to the frames of a link."""
    head = ("key and option", "what", "written", "bounds", "in the API")
    return table(
        head,
        (
            (f"`{d.name}`", d.help, f"`{d.example}`", d.quantity.span, d.quantity.unit)
            for d in DECLARED
        ),
    )


TABLES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "networks.md": {"impairments": impairments},
}


def renewed(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its tables made anew.

    Raises:
        ValueError: It has no markers for one of them.
    """
    for name, make in tables.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(
                f"the table {name} needs one pair of markers; write {begin.strip()} and {end}"
            )
        before, after = pattern.split(text, maxsplit=1)
        text = before + begin + make() + end + after
    return text


def stale() -> dict[Path, str]:
    """Return the pages that are not up to date, each with the text that it should have."""
    found = {}
    for name, tables in TABLES.items():
        path = DOCS / name
        text = path.read_text()
        if (made := renewed(text, tables)) != text:
            found[path] = made
    return found


def main() -> int:
    """Write the tables, or with `--check` tell what is not up to date."""
    pages = stale()
    for path, text in pages.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        sys.stdout.write(f"{path.name}\n")
    return 1 if pages and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
