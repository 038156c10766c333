"""Checks the shape of a template, and says what pydantic found in the words of labd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from labd.model.names import did_you_mean
from labd.template.document import Document, Path, Place, Problems
from labd.template.form import LabForm
from labd.template.keys import Section, sections

_MAPPING = "write a mapping, like {key: value}"
_WORDS: Final = {
    "list_type": "write a list, like [a, b]",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}


@dataclass(frozen=True, slots=True)
class Complaints:
    """Where the steps after the shape tell what is wrong."""

    document: Document
    problems: Problems

    def wrong(self, message: str, path: Path, *, key: bool = False) -> None:
        """Note a problem at a value, or at its key."""
        place = self.document.key_place(path) if key else self.document.place(path)
        self.add(message, path, place)

    def add(self, message: str, path: Path, place: Place) -> None:
        """Note a problem of a part, at a place.

        The copies of a counted node stand at one place, and what is wrong there is told once.
        """
        if not (self.document.is_later_copy(path) and self.problems.any_at(place)):
            self.problems.add(message, place)


def check_form(document: Document, problems: Problems) -> LabForm:
    """Return the form of plain data; what is wrong goes to `problems`, and it is then of no use."""
    try:
        return LabForm.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=True):
            _tell(detail, Complaints(document, problems))
    return LabForm.model_construct()


def _tell(detail: ErrorDetails, complaints: Complaints) -> None:
    document = complaints.document
    in_key = "[key]" in detail["loc"]
    path = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]

    def said(at: Path) -> str:
        # What is wrong in the first copy is so in all; what only a later one has, is its own.
        return where(at if document.is_later_copy(at) else document.original(at))

    if kind == "missing":
        message = f"{said(path[:-1])} needs the key '{path[-1]}'"
        place = document.key_place(path[:-1])
    elif kind == "extra_forbidden":
        key = str(path[-1])
        known = _model_at(path[:-1]).model_fields
        message = f"unknown key '{key[:64]}' in {said(path[:-1])}{did_you_mean(key, known)}"
        place = document.key_place(path)
    else:
        message = f"{said(path)}: {_text_of(kind, detail['msg'], detail.get('ctx', {}))}"
        place = document.key_place(path) if in_key else document.place(path)
    complaints.add(message, path, place)


def _text_of(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if kind == "labd":
        return str(context["message"])
    if kind == "enum":
        return f"must be {str(context['expected']).replace(chr(39), '')}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    if kind == "too_short":
        return f"needs {context['min_length']} or more"
    if kind == "too_long":
        return f"may have {context['max_length']} entries at most"
    if kind == "string_too_long":
        return f"is too long: {context['max_length']} characters at most"
    return message


def where(path: Path) -> str:
    """Say a path in words: `node client, nic eth0, mac`."""
    words: list[str] = []
    parts = list(path)
    while parts:
        part = parts.pop(0)
        if part in _NOUNS and parts:
            entry = parts.pop(0)
            number = entry + 1 if isinstance(entry, int) else entry[:64]
            words.append(f"{_NOUNS[str(part)]} {number}")
        elif isinstance(part, int):
            words.append(f"entry {part + 1}")
        else:
            words.append(part[:64])
    return ", ".join(words) or "the template"


def _model_at(path: Path) -> type[BaseModel]:
    """Return the model of a place; names in between may be anything, `ready` or `nics` too."""
    model: type[BaseModel] = LabForm
    parts = list(path)
    while parts:
        found = _SECTIONS.get(model, {}).get(str(parts.pop(0)))
        if found is None:
            return model
        model = found.form
        if found.many and parts:
            parts.pop(0)
    return model


def _all_sections(form: type[BaseModel]) -> dict[type[BaseModel], Mapping[str, Section]]:
    """Return the sections of a form, and of those inside it."""
    found: dict[type[BaseModel], Mapping[str, Section]] = {form: sections(form)}
    for section in found[form].values():
        found |= _all_sections(section.form)
    return found


_SECTIONS: Final = _all_sections(LabForm)
_NOUNS: Final = {
    name: section.noun
    for inside in _SECTIONS.values()
    for name, section in inside.items()
    if section.noun
}
