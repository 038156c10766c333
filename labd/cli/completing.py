"""What the shell completes: labs and nodes, and other things of which labd knows the names."""

from __future__ import annotations

import click

from labd.client.client import Client
from labd.model.errors import LabdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from click.shell_completion import CompletionItem

_PATIENCE = 1.0  # seconds: who presses Tab does not wait longer


def _names(found: Iterable[Mapping[str, object]]) -> list[str]:
    return [str(item["name"]) for item in found]


# The word that stands for a thing in usage lines -> how to ask for the names that there are.
KINDS: Mapping[str, Callable[[Client], list[str]]] = {
    "IMAGE": lambda client: _names(client.images()),
    "PROFILE": lambda client: _names(client.profiles()),
    "PLUGIN": lambda client: _names(client.plugins()),
    "TEMPLATE": lambda client: _names(client.templates()),
    "CHECKPOINT": lambda client: _names(client.checkpoints.all()),
    "CLASS": lambda client: _names(client.classes.all()),
}


def _ask(ctx: click.Context, ask: Callable[[Client], list[str]]) -> list[str]:
    """Return names; none where labd does not answer."""
    from labd.cli.session import Session

    session = ctx.find_object(Session) or Session()
    given = ctx.find_root().params
    session.root, session.socket = given.get("root") or "", given.get("socket") or ""
    session.url = given.get("url") or ""
    try:
        return ask(Client(session.socket_path, timeout=_PATIENCE))
    except LabdError:
        return []


# Things whose names are parts of URLs.
_PLAIN = {"CHECKPOINT", "CLASS", "PROFILE", "PLUGIN"}


class Reference(click.ParamType):  # type: ignore[type-arg] # generic from click 8.4 on
    """A `LAB` or `LAB/NODE`.

    Args:
        plain: A lab alone.
    """

    name = "reference"

    def __init__(self, plain: bool = False) -> None:
        self._plain = plain

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no lab: nothing, or one of its nodes."""
        if self._plain and (not value or "/" in value):
            self.fail(f"{value[:80]!r} is not the name of a lab", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the labs, or behind a slash the nodes, that begin like this."""
        from click.shell_completion import CompletionItem

        nodes = "NODE" in (param.metavar or "") and "/" in incomplete

        def ask(client: Client) -> list[str]:
            labs = client.labs()
            if nodes:
                return [f"{lab['name']}/{node['name']}" for lab in labs for node in lab["nodes"]]
            return [lab["name"] for lab in labs]

        return [CompletionItem(name) for name in _ask(ctx, ask) if name.startswith(incomplete)]


class Known(click.ParamType):  # type: ignore[type-arg] # generic from click 8.4 on
    """The name of a thing of one of `KINDS`."""

    def __init__(self, kind: str) -> None:
        self.name = kind.lower()
        self._kind = kind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no name."""
        if self._kind in _PLAIN and (not value or "/" in value):
            self.fail(f"{value[:80]!r} is not the name of a {self.name}", param, ctx)
        return value

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return the names that begin like this; for a template else files."""
        from click.shell_completion import CompletionItem

        names = [name for name in _ask(ctx, KINDS[self._kind]) if name.startswith(incomplete)]
        if self._kind == "TEMPLATE" and not names:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(name) for name in names]


def know(param: click.Parameter) -> None:
    """Have a parameter completed by what its usage line calls it.

    `--name IMAGE` is a new name, but `--name LAB` may well be that of a lab that there is.
    """
    word = param.metavar or ""
    if isinstance(param, click.Argument):
        word = word or (param.name or "").upper()
        if "LAB" in word:
            param.type = Reference(plain=word in {"LAB", "[LAB]"})
            return
    elif word == "LAB":
        param.type = Reference()
        return
    elif param.name == "name":
        return
    word = word.strip("[].")
    if word in KINDS:
        param.type = Known(word)
