"""How a key of templates is declared: once, by `key`, with all that is to be known of it.

The form is what the parser checks. The JSON Schema, the words of its mistakes, what an edit does to
a running node (`effects`), what is copied into the spec (`copied`), and the tables of
docs/templates.md are made of the same declaration.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Effect(StrEnum):
    """What a change of a key does to a machine that runs.

    Of a key of a network, it is said of the machines in it.
    """

    RESTART = "restart"  # it is built anew: `lab plan` says `replace`
    LIVE = "live"  # it takes it, if the feature of labs finds nothing against it; else as RESTART
    FORK = "fork"  # nothing; the next fork is made by it
    NONE = "none"  # nothing; labd itself acts on it, now or at the next boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a declaration says besides what pydantic keeps.

    Attributes:
        effect: Of a change; None: that of the key around it.
        spec: Name of the field in the spec; empty: that of the key.
        noun: What an entry is called, of a key that is a map or a list of forms.
        shown: The default for people; empty: as it is.
        more: What docs/templates.md says besides the help, in Markdown.
        long: Its value is too long to be shown in a plan.
    """

    effect: Effect | None = None
    spec: str = ""
    noun: str = ""
    shown: str = ""
    more: str = ""
    long: bool = False


@dataclass(frozen=True, slots=True)
class Bytes:
    """Marks the type of a key whose value is a number of bytes."""


class Form(BaseModel):
    """A mapping without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=False, hide_input_in_errors=True)


def key(
    help: str,
    *,
    effect: Effect | None = None,
    spec: str = "",
    noun: str = "",
    shown: str = "",
    more: str = "",
    long: bool = False,
    **field: Any,  # noqa: ANN401 - pydantic's
) -> Any:  # noqa: ANN401 - as pydantic's Field
    """Declare a key; for the first arguments see `Key`.

    Args:
        help: What it is, for people: in the JSON Schema and in the documentation.
        effect: See `Key`; so are the others.
        spec: See there.
        noun: See there.
        shown: See there.
        more: See there.
        long: See there.
        field: As of pydantic's `Field`: default, ge, le, max_length and so on.
    """
    made: FieldInfo = Field(description=help, **field)
    made.metadata.append(
        Key(effect=effect, spec=spec, noun=noun, shown=shown, more=more, long=long)
    )
    return made


def keys(form: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Key]]:
    """Yield name, field and declaration of each key of a form."""
    for name, field in form.model_fields.items():
        yield name, field, next((m for m in field.metadata if isinstance(m, Key)), Key())


def effects(form: type[BaseModel]) -> Mapping[str, Effect]:
    """Return field of the spec -> what a change of it does; fields that are missing restart."""
    return {said.spec or name: said.effect for name, _, said in keys(form) if said.effect}


def bounds(field: FieldInfo) -> tuple[int, int] | None:
    """Return the least and the most that a number may be; None if the declaration has no bounds."""
    found: dict[str, int] = {}
    for part in _parts(field):
        found |= {name: getattr(part, name) for name in ("ge", "le") if hasattr(part, name)}
    return (found["ge"], found["le"]) if found.keys() == {"ge", "le"} else None


def is_bytes(field: FieldInfo) -> bool:
    """True if the value of a key is a number of bytes."""
    return any(isinstance(part, Bytes) for part in _parts(field))


def _parts(field: FieldInfo) -> Iterator[object]:
    """Yield what a declaration is made of: types, validators, bounds, at any depth."""
    parts: list[Any] = [*field.metadata, field.annotation]
    while parts:
        part = parts.pop()
        parts += [*get_args(part), *getattr(part, "__metadata__", ())]
        parts += getattr(part, "metadata", ())
        yield part


@dataclass(frozen=True, slots=True)
class Section:
    """A key whose value is made of another form, or of many: `noun` is what one of them is."""

    form: type[BaseModel]
    many: bool
    noun: str


def sections(form: type[BaseModel]) -> Mapping[str, Section]:
    """Return the keys of a form that have forms inside."""
    found = {}
    for name, field, said in keys(form):
        inside = _form_inside(field.annotation)
        if inside is not None:
            found[name] = Section(inside[0], inside[1], said.noun)
    return found


def _form_inside(annotation: Any) -> tuple[type[BaseModel], bool] | None:  # noqa: ANN401 - any type
    """Return the form in an annotation, and whether there may be many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    many = get_origin(annotation) in {dict, list}
    if many or get_origin(annotation) in {Union, types.UnionType} or _is_annotated(annotation):
        for part in get_args(annotation):
            if (found := _form_inside(part)) is not None:
                return found[0], many or found[1]
    return None


def _is_annotated(annotation: Any) -> bool:  # noqa: ANN401 - any type
    return hasattr(annotation, "__metadata__")


def copied(form: BaseModel, spec: type[DataclassInstance]) -> dict[str, Any]:
    """Return what a spec takes over from a form as it is: the fields of the same name."""
    names = type(form).model_fields.keys() & {item.name for item in fields(spec)}
    return {name: _frozen(getattr(form, name)) for name in sorted(names)}


def _frozen(value: Any) -> Any:  # noqa: ANN401 - plain data
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
