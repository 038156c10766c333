"""What plain words stand for in YAML, by its versions 1.2 and 1.1."""

from __future__ import annotations

import re

from ruamel.yaml.events import ScalarEvent

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15})\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?)(?:[eE][-+]?[0-9]{1,2})?\Z"
)


def core_scalar(event: ScalarEvent) -> object:
    """Return what a scalar stands for by YAML 1.2's core schema (its section 10.3)."""
    text: str = event.value
    if not event.implicit[0]:
        return text  # quoted
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    return float(text) if _FLOAT.match(text) else text


_LEGACY_BOOL = re.compile(r"(?i:(yes|true|on)|no|false|off)\Z")
_LEGACY_OCTAL = re.compile(r"[-+]?0[0-7]{1,20}\Z")


def legacy_scalar(event: ScalarEvent) -> object:
    """Return what a scalar stands for by YAML 1.1, as PyYAML reads it."""
    text: str = event.value
    if event.implicit[0]:
        if found := _LEGACY_BOOL.match(text):
            return found[1] is not None
        if _LEGACY_OCTAL.match(text):
            return int(text, 8)
    return core_scalar(event)
