"""What the controller of classes returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labd.model.classes import ClassRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """A class and the states of its labs.

    Attributes:
        states: Student -> state of the lab; `waiting`, `failed` or `gone` where there is none.
    """

    record: ClassRecord
    states: Mapping[str, str]
