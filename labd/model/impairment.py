"""What makes a link worse than a perfect one, and how people write it.

Each impairment is a field of `Impairment`, declared by `_impairs`: how it is measured and written,
what it does, and what the kernel's emulator calls it. The API, `lab link`, the template, its JSON
Schema and the table in docs/networks.md are made of that declaration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from labd.model.errors import InputError

_RATE = re.compile(r"\s*([0-9]{1,12})(?:\.([0-9]{1,3}))?\s*([kKmMgG]?[bB][iI][tT])\s*\Z")
_UNITS = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_TIME = re.compile(r"\s*([0-9]{1,9})(?:\.([0-9]{1,6}))?\s*(us|ms|s)\s*\Z")
_SCALE = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PERCENT = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%?\s*\Z")
_NONE: Final = ("0", "none")
_METADATA: Final = "impairment"


def _parse_rate(name: str, text: str) -> int:
    found = _RATE.match(text)
    if found is None:
        raise InputError(f"{name} {text[:40]!r} is not valid: write it like 10mbit or 500kbit")
    whole, fraction, unit = found.groups()
    factor = _UNITS[unit.lower()]
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def _parse_time(name: str, text: str) -> float:
    found = _TIME.match(text)
    if found is None:
        raise InputError(f"{name} {text[:40]!r} is not valid: write it like 20ms or 1.5s")
    whole, fraction, unit = found.groups()
    return round(float(f"{whole}.{fraction or 0}") * _SCALE[unit], 6)


def _parse_percent(name: str, text: str) -> float:
    found = _PERCENT.match(text)
    if found is None:
        raise InputError(f"{name} {text[:40]!r} is not valid: write a percentage, like 0.5%")
    if float(found[1]) > 100:
        raise InputError(f"{name} must be 0% to 100%, not {float(found[1]):g}%")
    return float(found[1])


def format_rate(rate: float) -> str:
    """Return bits a second as `10mbit`."""
    for unit in ("gbit", "mbit", "kbit"):
        if rate >= _UNITS[unit]:
            return f"{rate / _UNITS[unit]:.3f}".rstrip("0").rstrip(".") + unit
    return f"{int(rate)}bit"


def format_time(seconds: float) -> str:
    """Return seconds as `20ms`."""
    for unit in ("s", "ms"):
        if seconds >= _SCALE[unit]:
            return f"{seconds / _SCALE[unit]:g}{unit}"
    return f"{seconds * 1e6:g}us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """How one kind of impairment is measured and written.

    Attributes:
        unit: Of the number, in the API and in events.
        least, most: Bounds of the number; 0 is allowed in any case.
        span: The bounds as people write them.
        parse: Name and text -> number; raises InputError.
        show: Number -> text.
        metavar: What an option of `lab link set` calls its value.
        pattern: Regular expression (ECMA 262) of the texts that `parse` takes.
        bare: A number without a unit is one, too.
        whole: The number is an integer.
        kernel_factor: Number -> unit of the kernel's emulator.
    """

    unit: str
    least: float = 0
    most: float
    span: str
    parse: Callable[[str, str], float]
    show: Callable[[float], str]
    metavar: str
    pattern: str
    bare: bool = False
    whole: bool = False
    kernel_factor: float = 1


# tc_ratespec of linux/pkt_sched.h counts bytes a second in 32 bits; below, a frame takes seconds.
RATE: Final = Quantity(
    unit="bits a second",
    least=8_000,
    most=10_000_000_000,
    span="8kbit to 10gbit",
    parse=_parse_rate,
    show=format_rate,
    metavar="RATE",
    pattern=r"^\s*([0-9]{1,12}(\.[0-9]{1,3})?\s*[kKmMgG]?[bB][iI][tT]|0|[nN][oO][nN][eE])\s*$",
    whole=True,
)
TIME: Final = Quantity(
    unit="seconds",
    most=60,
    span="at most 60s",
    parse=_parse_time,
    show=format_time,
    metavar="TIME",
    pattern=r"^\s*([0-9]{1,9}(\.[0-9]{1,6})?\s*(us|ms|s)|0|[nN][oO][nN][eE])\s*$",
    kernel_factor=1e6,  # microseconds
)
PERCENT: Final = Quantity(
    unit="per cent",
    most=100,
    span="0% to 100%",
    parse=_parse_percent,
    show=lambda value: f"{value:g}%",
    metavar="PERCENT",
    pattern=r"^\s*((0?[0-9]{1,2}(\.[0-9]{1,6})?|100(\.0{1,6})?)\s*%?|[nN][oO][nN][eE])\s*$",
    bare=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One impairment.

    Attributes:
        name: Of the field, the option, the key of templates and that of events.
        quantity: How it is measured and written.
        help: What it does, for people.
        example: A value as people write it.
        netem: What sch_netem calls it; empty: the emulator is not what does it.
    """

    name: str = ""
    quantity: Quantity
    help: str
    example: str
    netem: str = ""


def _impairs(quantity: Quantity, does: str, example: str, netem: str = "") -> Any:  # noqa: ANN401 - as `field`
    said = Declared(quantity=quantity, help=does, example=example, netem=netem)
    return field(default=0 if quantity.whole else 0.0, metadata={_METADATA: said})


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What happens to the frames that go one way. Zeros change nothing."""

    rate: int = _impairs(RATE, "At most so many bits a second", "10mbit")
    delay: float = _impairs(TIME, "Each frame takes so much longer", "20ms", "delay")
    jitter: float = _impairs(TIME, "The delay varies by so much", "5ms", "jitter")
    loss: float = _impairs(PERCENT, "Frames that are lost", "1%", "loss")
    duplicate: float = _impairs(PERCENT, "Frames that come twice", "1%", "duplicate")
    corrupt: float = _impairs(PERCENT, "Frames with a bit turned over", "1%", "prob_corrupt")

    def __bool__(self) -> bool:
        """It changes anything."""
        return any(getattr(self, name) for name in NAMES)

    @property
    def needs_netem(self) -> bool:
        """The kernel's network emulator has to do it (sch_netem)."""
        return any(getattr(self, item.name) for item in DECLARED if item.netem)


def _declared() -> tuple[Declared, ...]:
    found = []
    for item in fields(Impairment):
        said: Declared = item.metadata[_METADATA]
        found.append(
            Declared(
                name=item.name,
                quantity=said.quantity,
                help=said.help,
                example=said.example,
                netem=said.netem,
            )
        )
    return tuple(found)


DECLARED: Final = _declared()
BY_NAME: Final[Mapping[str, Declared]] = {item.name: item for item in DECLARED}
NAMES: Final = tuple(BY_NAME)


def parse(name: str, text: str) -> float:
    """Return the value of one field as people write it; `0` and `none` are nothing.

    Raises:
        InputError: It is none; tells how to write it.
    """
    if text.strip().lower() in _NONE:
        return 0
    return BY_NAME[name].quantity.parse(name, text)


def with_values(value: Impairment, changes: Mapping[str, float]) -> Impairment:
    """Return an impairment with other values of some fields.

    Raises:
        InputError: There is no such impairment.
    """
    if unknown := sorted(set(changes) - set(NAMES)):
        raise InputError(f"a link has no {', '.join(unknown)}")
    given: dict[str, Any] = {
        name: int(number) if BY_NAME[name].quantity.whole else number
        for name, number in {**facts(value), **changes}.items()
    }
    return Impairment(**given)


def check(value: Impairment) -> None:
    """Raise InputError if no kernel can do it: out of range, or jitter without enough delay."""
    for item in DECLARED:
        quantity, number = item.quantity, getattr(value, item.name)
        if number and not quantity.least <= number <= quantity.most:
            shown = quantity.show(number)
            raise InputError(f"{item.name} must be {quantity.span}, not {shown}")
    if value.jitter and not value.delay:
        raise InputError("jitter varies a delay; give a delay too")
    if value.jitter > value.delay:
        raise InputError(
            f"jitter {format_time(value.jitter)} is more than the delay, "
            f"{format_time(value.delay)}; give less"
        )


def facts(value: Impairment) -> dict[str, float]:
    """Return all fields by name: bits a second, seconds and per cent."""
    return {name: getattr(value, name) for name in NAMES}


def describe(values: Impairment | Mapping[str, float]) -> str:
    """Return an impairment for people, such as `rate 10mbit, loss 1%`; empty for none."""
    given = values if isinstance(values, Mapping) else facts(values)
    return ", ".join(
        f"{item.name} {item.quantity.show(given[item.name])}"
        for item in DECLARED
        if given.get(item.name)
    )
