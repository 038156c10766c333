"""What goes over the wire of the daemon and its host."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from labd.api.models import Wire


class Info(Wire):
    """Facts about the daemon; more keys may come."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str


class Finding(Wire):
    """One thing that the doctor looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str


class Findings(Wire):
    """What the doctor found."""

    findings: list[Finding]
