"""Rosters: CSV files with a line for each student; every mistake with its place."""

from __future__ import annotations

import csv
import re

from labd.model.checkpoints import MAX_COUNT
from labd.model.errors import InputError
from labd.model.names import is_name

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_LARGEST = 1 << 20  # bytes
_OWN = ("student", "lab")  # labd itself says them to a guest: LABD_STUDENT, LABD_LAB


def read_roster(path: str) -> list[dict[str, object]]:
    """Return the students of a roster: `name`, and `settings` from the other columns.

    Raises:
        InputError: With file, line and what is wrong.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(_LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise InputError(f"{path}: the roster cannot be read: {why}") from error
    if len(text) > _LARGEST:
        raise InputError(f"{path}: a roster has at most 1 MiB")
    return parse_roster(text, path)


def parse_roster(text: str, path: str) -> list[dict[str, object]]:
    """Return the students in the text of a roster; see `read_roster`."""
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    students: list[dict[str, object]] = []
    header: list[str] = []
    seen: dict[str, int] = {}
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            where = f"{path}:{rows.line_num}"
            if not any(cells):
                continue
            if not header:
                header = _header(cells, where)
                continue
            student = _student(header, cells, where)
            name = str(student["name"])
            if name in seen:
                raise InputError(f"{where}: student {name} is in line {seen[name]} already")
            seen[name] = rows.line_num
            students.append(student)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: this is no CSV: {error}") from error
    if len(students) > MAX_COUNT:
        raise InputError(
            f"{path}: a class has at most {MAX_COUNT} students, and these are {len(students)}; "
            "make two classes of them"
        )
    if not students:
        raise InputError(f"{path}:1: no students; write a line `name`, and a line for each")
    return students


def _header(cells: list[str], where: str) -> list[str]:
    if "name" not in cells:
        other = next((mark for mark in ";\t|" if mark in cells[0]), "")
        hint = f", with commas between, not {other!r}" if other else ""
        raise InputError(
            f"{where}: the first line must name the columns, and one of them `name`{hint}"
        )
    for key in cells:
        if not _KEY.match(key):
            raise InputError(
                f"{where}: column {key[:40]!r} cannot be a parameter: use letters, digits and '_'"
            )
        if [cell.lower() for cell in cells].count(key.lower()) > 1:
            raise InputError(f"{where}: column {key} is there twice (as LABD_{key.upper()})")
        if key.lower() in _OWN:
            raise InputError(
                f"{where}: column {key} would be LABD_{key.upper()}, which labd itself gives; "
                "choose another name for the column"
            )
    return cells


def _student(header: list[str], cells: list[str], where: str) -> dict[str, object]:
    if len(cells) != len(header):
        raise InputError(f"{where}: {len(cells)} columns, and the first line has {len(header)}")
    values = dict(zip(header, cells, strict=True))
    name = values.pop("name")
    if not is_name(name):
        raise InputError(
            f"{where}: student name {name[:40]!r} is not valid: use 1 to 31 of a-z, 0-9 and '-', "
            "beginning with a letter"
        )
    for key, value in values.items():
        if not value.isprintable():
            raise InputError(f"{where}: column {key} has a character that cannot be shown")
    return {"name": name, "settings": values}
