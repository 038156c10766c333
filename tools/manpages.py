"""Write the man pages: `lab` and its verbs from click, labd.toml(5) from the configuration's code.

labd(8) is written by hand (tools/man/labd.8), for its module needs all of labd to be imported, and
a package has to be built without that; a test holds it against the command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from labd import __version__
from labd.cli.main import VERBS, cli
from labd.host import config

_MANUAL = "labd manual"
_ESCAPES = {
    "\\": "\\e",
    "-": "\\-",
    "~": "\\(ti",
    "^": "\\(ha",
    "`": "\\(ga",
    "'": "\\(aq",
    '"': "\\(dq",
}
_FILES = """\
.SH FILES
.TP
.I /run/labd/api.sock
where labd listens for administrators
.TP
.I /run/labd/people.sock
where it listens for others, with a token or by their name on this host
"""
_ENVIRONMENT = """\
.SH ENVIRONMENT
.TP
.BR LABD_URL ", " LABD_SOCKET ", " LABD_ROOT
where labd is, unless an option says it; the first of these that is set
.TP
.B LABD_TOKEN
a token for
.I people.sock
or for the API over TCP
.TP
.B LABD_CA
a file of certificates to trust with https
.TP
.B NO_COLOR
no colours, also on a terminal
"""
_STATUS = """\
.SH EXIT STATUS
.TP
.B 0
ok
.TP
.B 1
failed
.TP
.B 2
bad usage or input; nothing was changed
.TP
.B 3
the daemon is unreachable
.TP
.B 4
not found
.TP
.B 5
timed out
.TP
.B 130
interrupted; what was begun goes on
"""


def text(words: str) -> str:
    """Return words for roff: what it would take for a request or an escape is written out."""
    made = "".join(
        _ESCAPES.get(letter, letter if letter.isascii() else f"\\[u{ord(letter):04X}]")
        for letter in words
    )
    return f"\\&{made}" if made.startswith(".") else made


def prose(words: str) -> str:
    """Return a paragraph, with what stands in back-quotes in bold."""
    parts = re.split(r"`([^`]+)`", " ".join(words.split()))
    made = "".join(
        f"\\fB{text(part)}\\fR" if at % 2 else text(part) for at, part in enumerate(parts)
    )
    return made if made[:1] not in {"'", "."} else f"\\&{made}"


def write(folder: Path) -> list[Path]:
    """Write all pages into man1, man5 and man8 below a folder; return their files.

    The pages depend on the source alone, and carry no date, so that a build can be repeated.
    """
    pages = dict(_commands())
    pages["labd.toml.5"] = "".join(_configuration())
    written = Path(__file__).with_name("man") / "labd.8"
    pages["labd.8"] = written.read_text(encoding="utf-8").replace("@VERSION@", __version__)
    files = []
    for name, page in sorted(pages.items()):
        file = folder / f"man{name[-1]}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
        files.append(file)
    return files


def _head(name: str, section: int, summary: str) -> str:
    title = f'.TH "{text(name.upper())}" {section} "" "labd {__version__}" "{_MANUAL}"\n'
    return f"{title}.SH NAME\n{text(name)} \\- {prose(summary.rstrip('.'))}\n"


def _commands() -> Iterator[tuple[str, str]]:
    context = click.Context(cli, info_name="lab", **cli.context_settings)
    yield "lab.1", "".join(_main(context))
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None, name
        inner = click.Context(command, info_name=name, parent=context)
        yield f"lab-{name}.1", "".join(_verb(f"lab-{name}", inner))


def _main(context: click.Context) -> Iterator[str]:
    yield _head("lab", 1, "take labs of real machines on real networks up and down")
    yield ".SH SYNOPSIS\n" + _synopsis(context)
    yield ".SH DESCRIPTION\n.B lab\nis the command line of labd, a daemon that runs labs of QEMU "
    yield "machines. Every verb has a page of its own, such as\n.BR lab\\-up (1).\n"
    yield ".SH VERBS\n"
    for name, (_, summary) in VERBS.items():
        yield f".TP\n.BR lab\\-{text(name)} (1)\n{prose(summary)}\n"
    yield _options(context)
    yield _STATUS + _ENVIRONMENT + _FILES
    yield ".SH SEE ALSO\n.BR labd (8),\n.BR labd.toml (5)\n"


def _verb(page: str, context: click.Context) -> Iterator[str]:
    command = context.command
    yield _head(page, 1, VERBS[context.info_name or ""][1])
    yield ".SH SYNOPSIS\n" + ".PP\n".join(_synopsis(inner) for inner in _leaves(context))
    yield ".SH DESCRIPTION\n" + _help(command)
    yield _options(context)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS\n"
        for inner in _leaves(context):
            yield f".SS {text(inner.command_path)}\n{_help(inner.command)}"
            yield "".join(_definitions(inner, but=inner.command.get_help_option(inner)))
    yield ".PP\nExit status, environment and files are those of\n.BR lab (1).\n"
    yield ".SH SEE ALSO\n.BR lab (1),\n.BR labd (8)\n"


def _leaves(context: click.Context) -> Iterator[click.Context]:
    """Yield the command itself, or of a group every command in it."""
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None and not inner.hidden:
            yield from _leaves(click.Context(inner, info_name=name, parent=context))


def _synopsis(context: click.Context) -> str:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    # The parents' own options are left out: what stands before the verb is told in lab(1).
    names = [context.info_name or ""]
    while (parent := context.parent) is not None:
        names.insert(0, parent.info_name or "")
        context = parent
    return f".B {text(' '.join(names))}\n{text(pieces)}\n"


def _help(command: click.Command) -> str:
    paragraphs = re.split(r"\n\s*\n", command.help or "")
    return ".PP\n".join(f"{prose(part)}\n" for part in paragraphs if part.strip())


def _options(context: click.Context) -> str:
    found = "".join(_definitions(context))
    return f".SH OPTIONS\n{found}" if found else ""


def _definitions(context: click.Context, but: click.Option | None = None) -> Iterator[str]:
    for param in context.command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and isinstance(param, click.Option) and param is not but:
            yield f".TP\n.B {text(record[0])}\n{prose(record[1])}\n"


def _configuration() -> Iterator[str]:
    """Yield labd.toml(5), from the table of keys in the docstring of `labd.host.config`."""
    yield _head("labd.toml", 5, "configuration of labd")
    yield ".SH SYNOPSIS\n.I /etc/labd/labd.toml\n.SH DESCRIPTION\n"
    yield "The file is TOML. Every key may be left out, and so may the file; below, each key has "
    yield "its default. A mistake is told with file and line, and labd does not start. It is "
    yield "read when labd starts.\n"
    for line in (config.__doc__ or "").splitlines():
        words, _, remark = line.strip().partition(" # ")
        key, equals, default = words.strip().partition(" = ")
        if not line.startswith("    ") or not words:
            continue
        if words.startswith("["):
            yield f".SH {text(words.strip())}\n" + (f"{prose(remark)}.\n" if remark else "")
        elif equals:
            # Without a remark the key's name has to do.
            yield f".TP\n.B {text(key)}\n{prose(remark or key.replace('_', ' '))}"
            yield f"; default\n.B {text(default.strip())}\n"
    yield ".SH SEE ALSO\n.BR labd (8),\n.BR lab (1)\n"
