"""Sizes and durations as people write them.

Binary units only, for a disk of `1 GiB` is not one of `1 GB`; a bare unit letter as QEMU takes it
(`512M`, `4G`) is read as binary too.
"""

from __future__ import annotations

import datetime as dt
import re

from labd.model.errors import InputError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE = re.compile(r"^\s*(\d{1,15})(?:\.(\d{1,3}))?\s*(B|K|M|G|T|KiB|MiB|GiB|TiB)?\s*\Z")
# What is taken, as ECMA 262 writes it, for the JSON Schema of templates: sizes there need a unit.
SIZE_PATTERN = r"^\s*[0-9]{1,15}(\.[0-9]{1,3})?\s*([BKMGT]|[KMGT]iB)\s*$"
_PARTS = "".join(f"([0-9]{{1,6}}{unit})?" for unit in "dhms")
DURATION_PATTERN = rf"^\s*([0-9]{{1,9}}(\.[0-9]{{1,3}})?|(?=[0-9]){_PARTS})\s*$"
MAX_SECONDS = 10**9  # of a number without a unit
_FACTOR = {
    "B": 1,
    "K": KIB,
    "KiB": KIB,
    "M": MIB,
    "MiB": MIB,
    "G": GIB,
    "GiB": GIB,
    "T": TIB,
    "TiB": TIB,
}
_DURATION = re.compile(r"^(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?\Z")


def parse_size(text: str) -> int:
    """Return a size in bytes.

    Raises:
        InputError: It is not a number with one of B, KiB, MiB, GiB, TiB (or K, M, G, T).
    """
    found = _SIZE.match(text)
    if found is None:
        raise InputError(f"size {text[:40]!r} is not valid: write it like 256 MiB or 10 GiB")
    whole, fraction, unit = found.groups()
    factor = _FACTOR[unit or "B"]
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def format_size(size: int) -> str:
    """Return `size` bytes in the largest binary unit that keeps it readable, such as `1.5 GiB`."""
    for name, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size / factor:.1f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{size} B"


def parse_duration(text: str) -> float:
    """Return a duration in seconds; `90s`, `5m`, `2h30m`, `1d`, or a bare number of seconds.

    Raises:
        InputError: It is none of these.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text):
        return float(text)
    found = _DURATION.match(text)
    if not text or found is None:
        raise InputError(f"duration {text[:40]!r} is not valid: write it like 90s, 5m or 2h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def rfc3339(unix: float) -> str:
    """Return a Unix time as RFC 3339 UTC with seconds."""
    return dt.datetime.fromtimestamp(unix, dt.UTC).isoformat(timespec="seconds")[:-6] + "Z"
