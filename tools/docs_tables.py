"""Write the tables of the documentation, and the JSON Schema, that are made of the code.

`python -m tools.docs_tables` writes them between their markers; `--check` only tells which
pages are not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from labd.model.impairment import DECLARED
from labd.template import schema
from labd.template.form import LabForm, NodeForm
from labd.template.keys import Effect, Key, bounds, keys
from labd.template.network_form import DhcpForm, DnsForm, LinkForm, NetworkForm
from labd.template.node_parts import CloudInitForm, NicForm

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
SCHEMA: Final = ROOT / "lab-templates" / "schema.json"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table of Markdown; a pipe inside a cell must be escaped."""
    return "\n" + _row(head) + _row("---" for _ in head) + "".join(map(_row, rows))


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


def key_table(*forms: type[BaseModel], without: Iterable[str] = ()) -> str:
    """Return the keys of forms, as they are declared; an effect is only where one is."""
    rows = [
        (name, field, said)
        for form in forms
        for name, field, said in keys(form)
        if name not in without
    ]
    changes = any(said.effect for _, _, said in rows)
    head = ("key", "default", "what", *(["a change"] if changes else []))
    return table(
        head,
        (
            (
                f"`{name}`",
                default(field, said),
                _help(field, said),
                *([said.effect or Effect.RESTART] if changes else []),
            )
            for name, field, said in rows
        ),
    )


def _help(field: FieldInfo, said: Key) -> str:
    parts = [(field.description or "").split("; left out:", 1)[0].replace("|", r"\|")]
    if (found := bounds(field)) is not None:
        parts.append(f"{found[0]} to {found[1]}")
    return "; ".join([*parts, *([said.more] if said.more else [])])


def default(field: FieldInfo, said: Key) -> str:
    """Return the default of a key for people, in Markdown."""
    if said.shown or field.is_required():
        return said.shown.strip()
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def impairment_names() -> str:
    """Return the impairments with their units, as part of a sentence."""
    return ", ".join(f"`{d.name}` ({d.quantity.unit})" for d in DECLARED)


TABLES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "events.md": {"impairments": impairment_names},
    "networks.md": {"impairments": impairments},
    "templates.md": {
        "top": lambda: key_table(LabForm),
        "networks": lambda: key_table(NetworkForm),
        "links": lambda: key_table(LinkForm, without=NetworkForm.model_fields),
        "dhcp": lambda: key_table(DhcpForm),
        "dns": lambda: key_table(DnsForm),
        "nodes": lambda: key_table(NodeForm),
        "nics": lambda: key_table(NicForm),
        "cloud-init": lambda: key_table(CloudInitForm),
    },
}


def renewed(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its tables made anew.

    Raises:
        ValueError: It has no markers for one of them.
    """
    for name, make in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the table {name} needs one pair of markers; write {begin} and {end}")
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
    if (made := json.dumps(schema(), indent=2) + "\n") != SCHEMA.read_text():
        found[SCHEMA] = made
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
