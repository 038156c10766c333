"""YAML as plain data that knows where each part stands.

Only what a template needs of YAML 1.2 is let in: one document of mappings with text as keys,
sequences and scalars. No anchors, so that a small text cannot stand for a large one; no tags and no
directives, so that nothing is constructed and `no` or `on` stay the words they are (they were
booleans in YAML 1.1). ruamel.yaml splits the text into events; what they mean is decided here, in
one pass with a bounded depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import FileMark, MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from labd.model.errors import Problem, TemplateError
from labd.template.scalars import core_scalar, legacy_scalar

MAX_TEXT: Final = 256 << 10  # bytes
_MAX_DEPTH: Final = 16  # ruamel takes a time that is quadratic in the depth

_SURROGATE = re.compile("[\ud800-\udfff]")  # by an escape, as JSON writes them; no text in UTF-8

Path = tuple[str | int, ...]
Place = tuple[int, int]


class Problems:
    """What is wrong with a text so far.

    Args:
        file: Name of the text.
        settings: Parameter name -> value, as `--set` gave it.
    """

    def __init__(self, file: str, settings: Mapping[str, str] | None = None) -> None:
        self.file = file
        self._settings = dict(settings or {})
        self._options: dict[Place, str] = {}
        self._found: dict[tuple[int, int, str], Problem] = {}
        self._places: set[Place] = set()

    def add(self, message: str, place: Place = (0, 0)) -> None:
        """Note a problem; the same one at the same place counts once."""
        line, column = place
        self._places.add(place)
        message = self._options.get(place, "") + message
        message = "".join(c if c.isprintable() else _escaped(c) for c in message)
        self._found.setdefault(
            (line, column, message), Problem(message=message, line=line, column=column)
        )

    def put_in(self, name: str, place: Place) -> None:
        """Note that a parameter stands at a place: what is wrong there is its option's, if any."""
        if name in self._settings:
            self._options[place] = f"--set {name}={self._settings[name][:64]}: "

    def any_at(self, place: Place) -> bool:
        """True if something is wrong at a place already."""
        return place in self._places

    def __bool__(self) -> bool:
        """There are any."""
        return bool(self._found)

    def __iter__(self) -> Iterator[Problem]:
        """Yield all of them, in the order of the text."""
        return iter([self._found[key] for key in sorted(self._found)])

    def raise_if_any(self) -> None:
        """Raise TemplateError with all problems, in the order of the text."""
        if self._found:
            raise TemplateError(self.file, list(self))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


@dataclass
class Document:
    """Plain data and the places of its parts.

    Attributes:
        data: Dictionaries, lists and scalars.
        places: Path of a part -> line and column (1-based) of its value.
        keys: Path of a part -> line and column of its key.
        texts: Path of a scalar -> what was written; `1.10` is another text than the number 1.1.
        origins: Path of a copy (of a counted node) -> path of what was written.
        copies: Name of a copy -> its number, from 1.
        blocks: Path of a text of many lines (`|`) -> line and column of its first character.
        filled: Characters that parameters have made so far, of all texts together.
    """

    data: dict[str, Any]
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    origins: dict[Path, Path] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    blocks: dict[Path, Place] = field(default_factory=dict)
    filled: int = 0

    def original(self, path: Sequence[str | int]) -> Path:
        """Return the path in the text for a path in the data."""
        path = tuple(path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]] + path[length:]
        return path

    def place(self, path: Sequence[str | int]) -> Place:
        """Return where a value stands, or the nearest part around it that was written."""
        at = self.original(path)
        while at and at not in self.places:
            at = at[:-1]
        return self.places.get(at, (1, 1))

    def key_place(self, path: Sequence[str | int]) -> Place:
        """Return where the key of a value stands, or the nearest part around it."""
        at = self.original(path)
        return self.keys.get(at) or self.place(at)

    def is_later_copy(self, path: Sequence[str | int]) -> bool:
        """True if a path is in the second or a later copy of a counted node."""
        return len(path) > 1 and path[0] == "nodes" and self.copies.get(str(path[1]), 0) > 1


def read(text: str, problems: Problems) -> Document:
    """Read a template; what is wrong goes to `problems`, and the data is then of no use."""
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT:
        problems.add(f"the template is larger than {MAX_TEXT >> 10} KiB; split the lab", (1, 1))
        return Document(data={})
    document, root = parse(text, problems, "a template")
    if problems:
        return document
    if root is None:
        problems.add("the template is empty; begin with name: and nodes:", (1, 1))
    elif not isinstance(root, dict):
        problems.add("a template is a mapping; begin with name: and nodes:", document.place(()))
    else:
        document.data = root
    return document


def parse(
    text: str, problems: Problems, noun: str, *, legacy: bool = False
) -> tuple[Document, Any]:
    """Read one document of YAML; return where its parts are, and what it is.

    Args:
        text: YAML.
        problems: What is wrong goes there, and the rest is then of no use.
        noun: What the text is, for messages.
        legacy: Plain words mean what they mean to readers of YAML 1.1: `yes` is true, `010` is 8.
    """
    document = Document(data={})
    builder = _Builder(document, problems, text, noun, legacy_scalar if legacy else core_scalar)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except _Refused as refused:
        problems.add(str(refused), refused.place)
    except ReaderError as error:
        problems.add(_unprintable(text, error), _place_of(text, error.position))
    except MarkedYAMLError as error:
        found = error.problem_mark or error.context_mark
        problems.add(_explain(error), _mark(found) if found else (1, 1))
    except (YAMLError, ValueError) as error:
        problems.add(f"not valid YAML: {' '.join(str(error).split())[:200]}", (1, 1))
    return document, builder.root


def _mark(mark: StringMark | FileMark) -> Place:
    return mark.line + 1, mark.column + 1


def _place_of(text: str, position: int) -> Place:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _unprintable(text: str, error: ReaderError) -> str:
    code = ord(text[error.position]) if error.position < len(text) else 0
    return f"the character U+{code:04X} is not allowed; take it out"


_EXPLANATIONS: Final = (
    (r"character '\\t'", "a tab stands where only spaces may; indent with spaces"),
    (r"character '(.)' that cannot start", "text that begins with {0} must be put in quotes"),
    (
        r"mapping values are not allowed",
        "a second ': '; put the text in quotes, or mend the indent",
    ),
    (r"expected <block end>", "this line does not belong here; align it with its neighbours"),
    (r"expected ',' or '(.)'", "a ',' or '{0}' is missing before this"),
    (r"stream end", "the text ends too early; close the bracket or quote that is open"),
    (r"end of stream", "the text ends too early; close the bracket or quote that is open"),
    (r"could not find expected ':'", "a line without ': '; write key: value"),
)


def _explain(error: MarkedYAMLError) -> str:
    problem = " ".join((error.problem or str(error)).split())[:200]
    for pattern, message in _EXPLANATIONS:
        if found := re.search(pattern, problem):
            return f"not valid YAML: {message.format(*found.groups())}"
    return f"not valid YAML: {problem}"


class _Refused(Exception):
    """YAML that is valid and not let in; reading ends."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


@dataclass
class _Open:
    """A collection whose end has not come. `key` is the one that waits for its value."""

    path: Path
    value: dict[str, Any] | list[Any]
    key: str | None = None


class _Builder:
    """Makes plain data of YAML events."""

    def __init__(
        self,
        document: Document,
        problems: Problems,
        text: str,
        noun: str,
        scalar: Callable[[ScalarEvent], object],
    ) -> None:
        self.root: Any = None
        self._noun = noun
        self._scalar = scalar
        self._text = text
        self._document = document
        self._problems = problems
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Event) -> None:
        """Take the next event; raises _Refused."""
        if isinstance(event, DocumentStartEvent):
            self._begin_document(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
        elif isinstance(event, NodeEvent):
            self._check(event)
            if self._wants_key():
                self._key(event)
            else:
                self._value(event)

    def _begin_document(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        place = _mark(event.start_mark)
        if event.version or event.tags:
            found = re.search(r"^\ufeff?%", self._text, re.MULTILINE)
            at = _place_of(self._text, found.start()) if found else place
            raise _Refused("directives (%) are not allowed; leave the line out", at)
        if self._documents > 1:
            raise _Refused(f"{self._noun} is one YAML document; take out what follows ---", place)

    def _check(self, event: NodeEvent) -> None:
        place = _mark(event.start_mark)
        if isinstance(event, AliasEvent) or event.anchor:
            raise _Refused(
                "anchors and aliases (& and *) are not allowed; write a parameter or repeat it",
                place,
            )
        tag = getattr(event, "tag", None)  # aliases have none
        if tag is not None:
            raise _Refused(f"tag {str(tag)[:60]!r} is not allowed; leave it out", place)
        if isinstance(event, ScalarEvent) and (half := _SURROGATE.search(event.value)):
            raise _Refused(
                f"the character U+{ord(half[0]):04X} is half of one; write the whole one", place
            )
        if len(self._open) >= _MAX_DEPTH:
            raise _Refused(
                f"nested too deeply; {self._noun} needs no more than a few levels", place
            )

    def _wants_key(self) -> bool:
        return (
            bool(self._open)
            and isinstance(self._open[-1].value, dict)
            and (self._open[-1].key is None)
        )

    def _key(self, event: NodeEvent) -> None:
        place = _mark(event.start_mark)
        if not isinstance(event, ScalarEvent):
            raise _Refused("a key must be a plain word", place)
        key: str = event.value
        into = self._open[-1]
        into.key = key
        if key == "<<":
            raise _Refused("merge keys (<<) are not allowed; repeat it", place)
        if not isinstance(core_scalar(event), str):
            self._problems.add(f"key '{key[:64]}' is no text; put it in quotes", place)
        elif key in into.value:
            self._problems.add(f"key '{key[:64]}' is there twice", place)
        self._document.keys[*into.path, key] = place

    def _value(self, event: NodeEvent) -> None:
        path = self._next_path()
        place = _mark(event.start_mark)
        if isinstance(event, ScalarEvent):
            if not event.value and event.implicit[0]:  # nothing: YAML has it after the line end
                place = self._document.keys.get(path, place)
            self._document.places[path] = place
            self._document.texts[path] = event.value
            if event.style == "|":
                self._document.blocks[path] = self._block(place[0])
            self._put(self._scalar(event))
            return
        self._document.places[path] = place
        made: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        assert isinstance(event, MappingStartEvent | SequenceStartEvent)  # noqa: S101 - no fourth
        self._put(made)
        self._open.append(_Open(path, made))

    def _block(self, header: int) -> Place:
        """Return where the first character of a literal text is, by the line of its `|`."""
        lines = self._text.split("\n")[header:]
        first = next((line for line in lines if line.strip()), "")
        return header + 1, len(first) - len(first.lstrip(" ")) + 1

    def _next_path(self) -> Path:
        if not self._open:
            return ()
        into = self._open[-1]
        if isinstance(into.value, list):
            return (*into.path, len(into.value))
        assert into.key is not None  # noqa: S101 - `take` asks for the key first
        return (*into.path, into.key)

    def _put(self, value: Any) -> None:  # noqa: ANN401 - plain data
        if not self._open:
            self.root = value
            return
        into = self._open[-1]
        if isinstance(into.value, list):
            into.value.append(value)
        elif into.key is not None:
            into.value[into.key] = value
            into.key = None
