"""One figure of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

_REASON = 300  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A figure, what it is compared with, and the bar that it should clear.

    Attributes:
        baseline: None when the bar is absolute.
        max_ratio: The bar for `labd / baseline`; None for no such bar.
        min_ratio: The same where more is better; None for no such bar.
        max_value: The bar for `labd` itself; None for no such bar.
    """

    name: str
    n: int
    unit: str
    labd: float
    baseline: float | None = None
    max_ratio: float | None = None
    min_ratio: float | None = None
    max_value: float | None = None

    @property
    def ratio(self) -> float | None:
        """Return labd's figure over the baseline's."""
        return self.labd / self.baseline if self.baseline else None

    @property
    def ok(self) -> bool | None:
        """Tell whether the bar is cleared; None when there is none."""
        if self.max_ratio is not None and self.ratio is not None:
            return self.ratio <= self.max_ratio
        if self.min_ratio is not None and self.ratio is not None:
            return self.ratio >= self.min_ratio
        return None if self.max_value is None else self.labd < self.max_value

    def row(self) -> str:
        """Return the line of the table."""
        baseline = f"{self.baseline:10.3f}" if self.baseline is not None else f"{'-':>10}"
        ratio = f"{self.ratio:7.2f}" if self.ratio is not None else f"{'-':>7}"
        bar = ""
        if self.ok is not None:
            asked = self.max_ratio if self.max_ratio is not None else self.min_ratio
            limit = f"ratio {asked:g}" if asked is not None else f"{self.max_value:g}"
            bar = f"{limit}: {'ok' if self.ok else 'MISSED'}"
        head = f"{self.name:<20} {self.n:>4} {self.unit:<8} {self.labd:10.3f}"
        return f"{head} {baseline} {ratio}  {bar}"

    def record(self) -> dict[str, object]:
        """Return what goes into results.json."""
        return {
            "name": self.name,
            "n": self.n,
            "unit": self.unit,
            "labd": round(self.labd, 6),
            "baseline": None if self.baseline is None else round(self.baseline, 6),
            "ratio": None if self.ratio is None else round(self.ratio, 4),
            "bar": next(
                (bar for bar in (self.max_ratio, self.min_ratio) if bar is not None),
                self.max_value,
            ),
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A figure that could not be measured.

    Attributes:
        n: As of a result; None where the benchmark did not come as far as to say.
        reason: One line.
    """

    name: str
    n: int | None = None
    reason: str

    @classmethod
    def of(cls, error: Exception, name: str, n: int | None = None) -> Self:
        """Return the failure that an error is."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(name=name, n=n, reason=text[:_REASON])

    @property
    def ok(self) -> bool:
        """A figure that is missing clears no bar."""
        return False

    def row(self) -> str:
        """Return the line of the table."""
        size = "-" if self.n is None else self.n
        return f"{self.name:<20} {size:>4} FAILED: {self.reason}"

    def record(self) -> dict[str, object]:
        """Return what goes into results.json."""
        missing = dict.fromkeys(("unit", "labd", "baseline", "ratio", "bar"))
        return {"name": self.name, "n": self.n, **missing, "ok": False, "error": self.reason}


Figure = Result | Failure


def attempt(
    measure: Callable[[], Iterable[Result]],
    names: Iterable[str],
    n: int,
    clean: Callable[[], None],
) -> Iterator[Figure]:
    """Yield figures as they are measured, and those that are still missing after an error.

    So a benchmark of several sizes goes on with the next.

    Args:
        measure: Yields results of the one size.
        names: Of all that it yields.
        n: The size.
        clean: Removes what an error leaves behind; what it raises ends the benchmark.
    """
    missing = list(names)
    try:
        for result in measure():
            missing.remove(result.name)
            yield result
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and others go on
        for name in missing:
            yield Failure.of(error, name, n)
        clean()


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return sorted(values)[len(values) // 2]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
