"""What every verb shares: where labd listens, how to print, and which exit status means what.

0 ok    1 failed    2 bad usage or input    3 daemon unreachable    4 not found    5 timed out
"""

from __future__ import annotations

import json
import sys

import click

from labd.cli.completing import know
from labd.client.client import Client
from labd.client.places import default_place, default_token, socket_of, websocket
from labd.model import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from websockets.sync.client import ClientConnection

FAILED, BAD_INPUT, UNREACHABLE, NOT_FOUND, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 5, 130
_LONGEST = 7 * 86400.0  # seconds; what the API takes


class TimedOut(errors.LabdError):
    """What was waited for did not come in time."""

    code = "timed_out"


class Session:
    """One run of `lab`. Kept as `ctx.obj`."""

    def __init__(self) -> None:
        self.root = ""
        self.socket = ""
        self.url = ""
        self.json = False
        self._client: Client | None = None

    @property
    def socket_path(self) -> str:
        """Return where labd listens, by option or environment: a path, or a URL."""
        if self.url or self.socket:
            return self.url or self.socket
        return socket_of(self.root) if self.root else default_place()

    def websocket(self, target: str) -> ClientConnection:
        """Open a WebSocket; see `labd.client.places.websocket`."""
        return websocket(self.socket_path, default_token(), target)

    @property
    def client(self) -> Client:
        """Return the client; it connects when it is used."""
        if self._client is None:
            self._client = Client(self.socket_path)
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def emit(self, value: object) -> None:
        """Print JSON on stdout."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def say(self, line: str) -> None:
        """Print a line for people on stdout."""
        sys.stdout.write(line + "\n")

    def note(self, line: str) -> None:
        """Print a line of progress on stderr, unless a program reads."""
        if not self.json:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def status_of(error: errors.LabdError) -> int:
    """Return the exit status of an error."""
    if isinstance(error, TimedOut) or error.details.get("timed_out"):
        return TIMED_OUT
    for kind, status in (
        (errors.InputError, BAD_INPUT),
        (errors.DaemonUnreachable, UNREACHABLE),
        (errors.NotFound, NOT_FOUND),
    ):
        if isinstance(error, kind):
            return status
    return FAILED


def report(code: str, message: str, details: object, *, as_json: bool) -> None:
    """Print an error on stderr."""
    if as_json:
        text = json.dumps({"code": code, "message": message, "details": details}, default=str)
    elif code == errors.TemplateError.code:
        text = message  # file:line:column: …, which editors can jump to
    else:
        text = f"lab: {message}"
    sys.stderr.write(text + "\n")


def _set_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    session = ctx.find_object(Session)
    if value and session is not None:
        session.json = True


def json_option() -> click.Option:
    """Return the `--json` that every verb has."""
    return click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Print JSON with stable keys, errors too.",
    )


class Family(click.Group):
    """A group whose commands are told in whole lines, and the nearest for one that is none."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a near one is suggested for an unknown."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from labd.model.names import nearest

            near = nearest(args[0], known)
            hint = f"; did you mean '{near}'?" if near else ""
            no = "there is no verb" if ctx.parent is None else f"{ctx.command_path} has no command"
            ctx.fail(f"{no} '{args[0][:64]}'{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, none cut short."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(200)) for name, found in commands if found]
            )


def verb(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function whose first argument is the `Session`."""

    def wrap(function: Callable[..., None]) -> click.Command:
        made: Callable[..., None] = click.pass_obj(function)
        command: click.Command = click.command(name)(made)
        for param in command.params:
            know(param)
        command.params.append(json_option())
        return command

    return wrap


def split_ref(text: str) -> tuple[str, str]:
    """Return lab and node of `LAB` or `LAB/NODE`; the node is empty for `LAB`.

    Raises:
        InputError: It is neither. Whether the names are valid is the daemon's to say.
    """
    lab, slash, node = text.partition("/")
    if not lab or (slash and not node) or "/" in node:
        raise errors.InputError(f"{text[:80]!r} is not LAB or LAB/NODE; write it like web/server")
    return lab, node


def node_ref(text: str) -> tuple[str, str]:
    """Return lab and node of `LAB/NODE`.

    Raises:
        InputError: There are not exactly two parts.
    """
    lab, node = split_ref(text)
    if not node:
        raise errors.InputError(f"{text[:80]!r} is not LAB/NODE; write it like web/server")
    return lab, node


def look_up(
    what: str, names: tuple[str, ...], known: Callable[[], Iterable[dict[str, Any]]]
) -> list[str]:
    """Return names, each once, when there is one of each, before anything is done to the first.

    A single one is left to labd: its request fails as a whole.

    Args:
        what: The noun for the message, such as `checkpoint`.
        names: What was given.
        known: Asks labd for all that there are; each has a `name`.

    Raises:
        NotFound: There is none of that name.
    """
    wanted = list(dict.fromkeys(names))
    if len(wanted) < 2:
        return wanted
    there = [item["name"] for item in known()]
    for name in wanted:
        if name not in there:
            from labd.model.names import did_you_mean

            raise errors.NotFound(f"there is no {what} {name[:64]}{did_you_mean(name, there)}")
    return wanted


def pairs(items: tuple[str, ...], option: str = "--set") -> dict[str, str]:
    """Return the values of a repeated `KEY=VALUE` option.

    Raises:
        InputError: One has no `=`, or a key comes twice.
    """
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise errors.InputError(f"{option} {item[:80]!r} is not KEY=VALUE")
        if key in found:
            raise errors.InputError(f"{option} {key} is given twice; give it once")
        found[key] = value
    return found


def seconds(text: str) -> float:
    """Return a duration in seconds: `90`, `90s`, `5m`, `2h30m`.

    Raises:
        InputError: It is none.
    """
    from labd.model.units import parse_duration

    return parse_duration(text)


def deadline(text: str | None) -> float | None:
    """Return a `--timeout` in seconds, None without one.

    Raises:
        InputError: It is no duration, or one that nothing can be done in.
    """
    if text is None:
        return None
    limit = seconds(text)
    if not 0 < limit <= _LONGEST:
        raise errors.InputError(f"--timeout {text[:40]} must be more than 0 and at most 7d")
    return limit
