"""`lab logs`."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

import click

from labd.cli.session import Session, seconds, split_ref, verb
from labd.cli.text import plain, strip_escapes
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_POLL = 0.5  # seconds
_PAGE = 1000  # events


@verb("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come.")
@click.option(
    "--since",
    metavar="TIME",
    help="Nothing older: 10m for ten minutes ago, or a time such as 2026-11-23T10:00:00Z.",
)
@click.option("--raw", is_flag=True, help="The serial output alone, as it came.")
@click.argument("ref", metavar="LAB[/NODE]")
def logs(session: Session, follow: bool, since: str | None, raw: bool, ref: str) -> None:
    """Print what nodes said on their serial lines, what QEMU said, and what labd did, by time.

    Lines are kept from a node's last start on, up to 1 MiB; of what a guest says while no labd
    runs, up to 32 KiB. With --json, JSON Lines: time, node, source (console, qemu or labd), text.
    """
    lab, node = split_ref(ref)
    begin = _begin(since)
    if raw:
        if follow or since:
            raise InputError("--raw prints what there is; leave out --follow and --since")
        _raw(session, lab, node)
        return
    line = _TimeLine(session, lab, node, begin)
    try:
        while True:
            for item in line.more(unfinished=not follow):
                text = json.dumps(item) if session.json else _shown(item, alone=bool(node))
                sys.stdout.write(text + "\n")
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(_POLL)
    except KeyboardInterrupt:
        return


class _TimeLine:
    """All that is new since the last look, by time."""

    def __init__(self, session: Session, lab: str, node: str, begin: str) -> None:
        self._client = session.client
        self._lab, self._node, self._begin = lab, node, begin
        self._positions: dict[str, int] = {}
        self._seen: set[tuple[str, str, str]] = set()
        self._seq: int | None = None

    def more(self, *, unfinished: bool) -> list[dict[str, str]]:
        """Return what is new; `unfinished` lines too, or not before their ends have come."""
        found = self._client.lab(self._lab)
        names = [item["name"] for item in found["nodes"]]
        if self._node:
            self._client.node(self._lab, self._node)  # tells when there is none
            names = [self._node]
        if self._seq is None:
            self._seq = self._first_seq(max(self._begin, found["created"]))
        lines = [item for name in names for item in self._said(name, unfinished=unfinished)]
        lines += self._decided(set(names))
        return sorted(lines, key=lambda item: item["time"])

    def _said(self, name: str, *, unfinished: bool) -> Iterator[dict[str, str]]:
        for line in self._client.node_lines(self._lab, name, self._positions.get(name, 0)):
            if not line["whole"] and not unfinished:
                continue
            if line["source"] == "console":
                self._positions[name] = line["position"]
            else:
                key = (name, line["time"], line["text"])
                if key in self._seen:
                    continue
                self._seen.add(key)
            if line["time"] >= self._begin and line["text"].strip():
                yield _item(line["time"], name, line["source"], line["text"])

    def _decided(self, names: set[str]) -> Iterator[dict[str, str]]:
        done = False
        while not done:
            after = self._seq or 0
            page = self._client.events(after, _PAGE, lab=self._lab)
            for event in page["events"]:
                node = str(event.get("node") or "")
                if not node or node in names:
                    kind = str(event["type"]).removeprefix("io.labd.")
                    text = " ".join([kind, *_words(event.get("data") or {})])
                    yield _item(_milli(str(event["time"])), node, "labd", text)
            done = page["next"] >= page["last"] or page["next"] == after
            self._seq = page["next"]

    def _first_seq(self, begin: str) -> int:
        """Return the seq before the first event that is not older than `begin`, by halving."""
        page = self._client.events(None, 1)
        low, high = page["first"] - 1, page["last"]
        while low < high:
            middle = (low + high) // 2
            events = self._client.events(middle, 1)["events"]
            if events and str(events[0]["time"]) < begin:
                low = middle + 1
            else:
                high = middle
        return max(low, 0)


def _begin(since: str | None) -> str:
    """Return a time, RFC 3339 UTC to the millisecond; empty for all."""
    if since is None:
        return ""
    try:
        moment = datetime.fromisoformat(since.replace("Z", "+00:00"))
    except ValueError:
        try:
            moment = datetime.fromtimestamp(time.time() - seconds(since), UTC)
        except (InputError, OverflowError, OSError) as error:
            raise InputError(
                f"--since {since[:40]!r} is neither a duration such as 10m nor a time such as "
                "2026-11-23T10:00:00Z"
            ) from error
    return _milli(moment.astimezone(UTC).isoformat(timespec="milliseconds"))


def _milli(text: str) -> str:
    """Return an RFC 3339 time in UTC with exactly three places behind the seconds."""
    places = text[20:23] if text[19:20] == "." else ""
    return f"{text[:19]}.{places:0<3}Z"


def _item(moment: str, node: str, source: str, text: str) -> dict[str, str]:
    return {"time": moment, "node": node, "source": source, "text": text}


def _words(data: Mapping[str, object]) -> list[str]:
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in data.items()
        if value not in ("", None)
    ]


def _shown(item: Mapping[str, str], *, alone: bool) -> str:
    name = "" if alone else f"{item['node'] or '-':<12} "
    text = plain(strip_escapes(item["text"]))
    return f"{item['time'][:10]} {item['time'][11:23]} {name}{item['source']:<7} {text}".rstrip()


def _raw(session: Session, lab: str, node: str) -> None:
    nodes = [node] if node else [item["name"] for item in session.client.lab(lab)["nodes"]]
    texts = {name: session.client.node_log(lab, name) for name in nodes}
    if session.json:
        session.emit(
            {"lab": lab, "logs": {n: t.decode(errors="replace") for n, t in texts.items()}}
        )
        return
    for name, text in texts.items():
        if not node:
            session.say(f"==> {lab}/{name} <==")
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        if not node and not text.endswith(b"\n"):
            session.say("")
        sys.stdout.flush()
