"""What bodies and answers have in common.

Keys are stable; sizes are bytes, times RFC 3339 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from labd.model.names import NAME_PATTERN

OPTIONAL_NAME_PATTERN = NAME_PATTERN.replace("^", "^(").replace("$", ")?$")

LabName = Annotated[str, Path(pattern=NAME_PATTERN)]

NodeName = Annotated[str, Path(pattern=NAME_PATTERN)]

Name = Annotated[str, Field(pattern=NAME_PATTERN)]

Sha256 = Annotated[str, Field(pattern="^([0-9a-fA-F]{64})?$")]

Json = Mapping[str, Any]


class Wire(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """Base of all request bodies: what is not known is refused, numbers are not read from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Problem(Wire):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One line: what happened, and what to do next")
    code: str = Field(description="Stable; the class of the error")
    details: dict[str, Any] = Field(description="Facts for programs")
