"""An event as a plugin sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from labd.model.events import TYPE_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A CloudEvents record, unpacked; see `docs/events.md`.

    Attributes:
        seq: 1, 2, 3… without gaps.
        type: Without the `io.labd.` prefix, such as `node.crashed`.
        time: RFC 3339 UTC.
        lab: Empty when it concerns none.
        node: Empty when it concerns none.
        operation: Empty when none caused it.
        subject: `LAB`, `LAB/NODE`, or the name of a network, image, profile or plugin.
        data: Facts of the type.
        record: The whole record.
    """

    seq: int
    type: str
    time: str = ""
    lab: str = ""
    node: str = ""
    operation: str = ""
    subject: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    record: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, object]) -> Event:
        """Unpack a record.

        Raises:
            ValueError: It is none of labd's.
        """
        seq, data = record.get("seq"), record.get("data", {})
        if type(seq) is not int or not isinstance(data, Mapping):
            raise ValueError("no event of labd: seq or data is wrong")
        text = {
            key: str(record.get(key, ""))
            for key in ("type", "time", "lab", "node", "operation", "subject")
        }
        text["type"] = text["type"].removeprefix(TYPE_PREFIX)
        return cls(seq=seq, data=data, record=record, **text)

    @property
    def is_state(self) -> bool:
        """True if it is a state topic's snapshot and no event."""
        return self.type.endswith(".snapshot")

    def matches(self, pattern: str, lab: str = "") -> bool:
        """True if the type matches `pattern` (`*`: all) and the lab is `lab`, if given."""
        return fnmatchcase(self.type, pattern) and (not lab or self.lab == lab)
