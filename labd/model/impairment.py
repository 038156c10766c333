"""What makes a wire worse than a perfect one, and how people write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from labd.model.errors import InputError

# tc_ratespec of linux/pkt_sched.h counts bytes a second in 32 bits; below, a frame takes seconds.
MIN_RATE: Final = 8_000
MAX_RATE: Final = 10_000_000_000
MAX_TIME: Final = 60.0  # seconds

_RATE = re.compile(r"\s*(\d{1,12})(?:\.(\d{1,3}))?\s*(bit|kbit|mbit|gbit)\s*\Z", re.IGNORECASE)
_UNITS = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_TIME = re.compile(r"\s*(\d{1,9})(?:\.(\d{1,6}))?\s*(us|ms|s)\s*\Z")
_SCALE = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%?\s*\Z")
_NONE: Final = ("0", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What happens to the frames that go one way. Zeros change nothing.

    Attributes:
        rate: Bits a second.
        delay: Seconds that each frame takes longer.
        jitter: Seconds by which `delay` varies, to both sides.
        loss: Per cent of the frames that are lost.
        duplicate: Per cent that come twice.
        corrupt: Per cent in which one bit is turned over.
    """

    rate: int = 0
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    def __bool__(self) -> bool:
        """It changes anything."""
        return any(getattr(self, item.name) for item in fields(self))

    @property
    def needs_netem(self) -> bool:
        """The kernel's network emulator has to do it (sch_netem)."""
        return any(getattr(self, item.name) for item in fields(self) if item.name != "rate")


NAMES: Final = tuple(item.name for item in fields(Impairment))


def parse(name: str, text: str) -> float:
    """Return the value of one field as people write it; `0` and `none` are nothing.

    Raises:
        InputError: It is none; tells how to write it.
    """
    if text.strip().lower() in _NONE:
        return 0
    if name == "rate":
        return _parse_rate(text)
    if name in ("delay", "jitter"):
        return _parse_time(name, text)
    found = _PERCENT.match(text)
    if found is None:
        raise InputError(f"{name} {text[:40]!r} is not valid: write a percentage, like 0.5%")
    if float(found[1]) > 100:
        raise InputError(f"{name} must be 0% to 100%, not {float(found[1]):g}%")
    return float(found[1])


def _parse_rate(text: str) -> int:
    found = _RATE.match(text)
    if found is None:
        raise InputError(f"rate {text[:40]!r} is not valid: write it like 10mbit or 500kbit")
    whole, fraction, unit = found.groups()
    factor = _UNITS[unit.lower()]
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def _parse_time(name: str, text: str) -> float:
    found = _TIME.match(text)
    if found is None:
        raise InputError(f"{name} {text[:40]!r} is not valid: write it like 20ms or 1.5s")
    whole, fraction, unit = found.groups()
    return round(float(f"{whole}.{fraction or 0}") * _SCALE[unit], 6)


def check(value: Impairment) -> None:
    """Return when an impairment can be had by some kernel.

    Raises:
        InputError: A field is out of its range, or two contradict each other.
    """
    if value.rate and not MIN_RATE <= value.rate <= MAX_RATE:
        raise InputError(f"rate must be 8kbit to 10gbit, not {format_rate(value.rate)}")
    for name in ("delay", "jitter"):
        if not 0 <= getattr(value, name) <= MAX_TIME:
            raise InputError(f"{name} must be at most 60s, not {getattr(value, name):g}s")
    for name in ("loss", "duplicate", "corrupt"):
        if not 0 <= getattr(value, name) <= 100:
            raise InputError(f"{name} must be 0% to 100%, not {getattr(value, name):g}%")
    if value.jitter and not value.delay:
        raise InputError("jitter varies a delay; give a delay too")
    if value.jitter > value.delay:
        raise InputError(
            f"jitter {format_time(value.jitter)} is more than the delay, "
            f"{format_time(value.delay)}; give less"
        )


def format_rate(rate: int) -> str:
    """Return bits a second as `10mbit`."""
    for unit in ("gbit", "mbit", "kbit"):
        if rate >= _UNITS[unit]:
            return f"{rate / _UNITS[unit]:.3f}".rstrip("0").rstrip(".") + unit
    return f"{rate}bit"


def format_time(seconds: float) -> str:
    """Return seconds as `20ms`."""
    for unit in ("s", "ms"):
        if seconds >= _SCALE[unit]:
            return f"{seconds / _SCALE[unit]:g}{unit}"
    return f"{seconds * 1e6:g}us"


def facts(value: Impairment) -> dict[str, float]:
    """Return all fields by name: bits a second, seconds and per cent."""
    return {name: getattr(value, name) for name in NAMES}


def describe(values: Impairment | Mapping[str, float]) -> str:
    """Return an impairment for people, such as `rate 10mbit, loss 1%`; empty for none."""
    given = values if isinstance(values, Mapping) else facts(values)
    shown = []
    for name in NAMES:
        value = given[name]
        if not value:
            continue
        if name == "rate":
            shown.append(f"rate {format_rate(int(value))}")
        elif name in ("delay", "jitter"):
            shown.append(f"{name} {format_time(value)}")
        else:
            shown.append(f"{name} {value:g}%")
    return ", ".join(shown)
