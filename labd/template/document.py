"""YAML as plain data that knows where each part stands.

Only what a template needs of YAML 1.2 is let in: mappings with string keys, sequences and plain
scalars. No anchors, so that a small text cannot stand for a large one; no tags, so that nothing is
constructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from labd.model.errors import Problem, TemplateError

MAX_TEXT = 256 << 10  # bytes
_MAX_DEPTH = 20
_CORE = "tag:yaml.org,2002:"

Path = tuple[str | int, ...]


class Problems:
    """What is wrong with a text so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: dict[tuple[int, int, str], Problem] = {}

    def add(self, message: str, place: tuple[int, int] = (0, 0)) -> None:
        """Note a problem; the same one at the same place counts once."""
        line, column = place
        self._found.setdefault(
            (line, column, message), Problem(message=message, line=line, column=column)
        )

    def raise_if_any(self) -> None:
        """Raise TemplateError with all problems, in the order of the text."""
        if self._found:
            found = [self._found[key] for key in sorted(self._found)]
            raise TemplateError(self.file, found)


@dataclass
class Document:
    """Plain data and the places of its parts.

    Attributes:
        data: Dictionaries, lists and scalars.
        places: Path of a part -> line and column (1-based) of its value.
        keys: Path of a part -> line and column of its key.
        origins: Path of a copy (of a counted node) -> path of what was written.
    """

    data: dict[str, Any]
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    origins: dict[Path, Path] = field(default_factory=dict)

    def original(self, path: Sequence[str | int]) -> Path:
        """Return the path in the text for a path in the data."""
        path = tuple(path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]] + path[length:]
        return path

    def place(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Return where a value stands, or the nearest part around it that was written."""
        at = self.original(path)
        while at and at not in self.places:
            at = at[:-1]
        return self.places.get(at, (1, 1))

    def key_place(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Return where the key of a value stands."""
        at = self.original(path)
        return self.keys.get(at) or self.place(at)


def _mark(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def read(text: str, problems: Problems) -> Document:
    """Read YAML; what is wrong goes to `problems`, and the data is then of no use."""
    document = Document(data={})
    if len(text.encode()) > MAX_TEXT:
        problems.add(f"the template is larger than {MAX_TEXT >> 10} KiB; split the lab", (1, 1))
        return document
    yaml = YAML(typ="safe", pure=True)
    try:
        for event in yaml.parse(text):
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
                mark = event.start_mark
                problems.add(
                    "anchors and aliases (& and *) are not allowed; write a parameter or repeat it",
                    (mark.line + 1, mark.column + 1),
                )
                return document
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problems.add(f"not valid YAML: {_one_line(error.problem or str(error))}", place)
        return document
    except (YAMLError, ValueError, RecursionError) as error:
        problems.add(f"not valid YAML: {_one_line(str(error))}", (1, 1))
        return document
    if root is None:
        problems.add("the template is empty; begin with name: and nodes:", (1, 1))
        return document
    if not isinstance(root, MappingNode):
        problems.add("a template is a mapping; begin with name: and nodes:", _mark(root))
        return document
    document.data = _Reader(document, problems).value(root, ())
    return document


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


class _Reader:
    def __init__(self, document: Document, problems: Problems) -> None:
        self._document = document
        self._problems = problems

    def value(self, node: Node, path: Path) -> Any:  # noqa: ANN401 - plain data
        self._document.places[path] = _mark(node)
        if len(path) > _MAX_DEPTH:
            self._problems.add("nested too deeply", _mark(node))
            return None
        if not str(node.tag).startswith(_CORE):
            problem = f"tag {str(node.tag)[:40]!r} is not allowed; leave it out"
            self._problems.add(problem, _mark(node))
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # noqa: S101 - there is no fourth kind
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problems.add("a key must be a plain word", _mark(key_node))
                continue
            key = key_node.value
            if key == "<<":
                self._problems.add("merge keys (<<) are not allowed; repeat it", _mark(key_node))
                continue
            if key in found:
                self._problems.add(f"key '{key[:64]}' is there twice", _mark(key_node))
                continue
            self._document.keys[*path, key] = _mark(key_node)
            found[key] = self.value(value_node, (*path, key))
        return found

    def _scalar(self, node: ScalarNode) -> object:
        text: str = node.value
        kind = str(node.tag).removeprefix(_CORE)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text.replace("_", ""), 0)
            if kind == "float":
                return float(text)
        except ValueError:
            return text
        return text
