"""Leases as people write and read them."""

from __future__ import annotations

from labd.cli.session import seconds
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Lease


def lease_of(
    time: str | None, keep: str | None = None, warn: str | None = None
) -> dict[str, object] | None:
    """Return the lease of a request, None when none is asked for.

    Args:
        time: How long (`3h`), or until when (RFC 3339).
        keep: From the end to the destruction, such as `1d`.
        warn: Times before the end with commas between, such as `15m,5m`; empty for no warning.

    Raises:
        InputError: One of them is no time, or there is nothing to keep.
    """
    if time is None:
        if keep is not None:
            raise InputError("--keep-for needs a --lease after which the lab is kept")
        return None
    lease: dict[str, object] = {}
    if "T" in time or ":" in time:
        lease["until"] = time
    else:
        try:
            lease["seconds"] = seconds(time)
        except InputError as error:
            raise InputError(
                f"{time[:40]!r} is neither a duration such as 3h nor a time with its zone such as "
                "2026-01-31T18:00:00Z"
            ) from error
    if keep is not None:
        lease["keep"] = seconds(keep)
    if warn is not None:
        lease["warn"] = [seconds(item) for item in warn.split(",") if item.strip()]
    return lease


def duration(length: float) -> str:
    """Return seconds in words of two units at most: `2 h 5 min`, `40 s`."""
    whole = round(length)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for index, (name, size) in enumerate(units):
        if whole >= size:
            first = f"{whole // size} {name}"
            if index + 1 == len(units):
                return first
            second, below = units[index + 1]
            rest = whole % size // below
            return f"{first} {rest} {second}" if rest else first
    return "0 s"


def shown(time: str) -> str:
    """Return an RFC 3339 time as it stands in tables."""
    return time[:19].replace("T", " ") + " UTC"


def lease_text(lease: Lease) -> str:
    """Return a lease as a sentence."""
    gone = f"destroyed at {shown(lease['destroys'])}"
    if lease["stage"] == "ended":
        return f"its lease ended at {shown(lease['ends'])}; it will be {gone}"
    left = duration(lease["left"])
    return f"its lease ends at {shown(lease['ends'])}, in {left}; it will be {gone}"
