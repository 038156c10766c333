"""Where apt of this host gets the distribution from: its configured sources, less all others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labd.host.commands import run
from labd.model.errors import CommandFailed

_FIELDS = ("ORIGIN", "REPO_URI", "RELEASE", "CODENAME", "COMPONENT", "FILENAME")
# Origin as the archive signs it -> the keyring that its package brings, and what is taken from it.
_ORIGINS = {
    "Debian": (Path("/usr/share/keyrings/debian-archive-keyring.gpg"), {"main"}),
    "Ubuntu": (Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"), {"main", "universe"}),
}
_PROXY = re.compile(r'^Acquire::(?:[a-z]+::)+Proxy(?:-Auto-Detect)? ".*";$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a fresh system is made from.

    Attributes:
        suite: Codename of the release, such as `bookworm`.
        lines: Of its sources.list.
        options: Lines of apt.conf, with the proxies of this host.
        digest: Of all this and of apt's lists; it changes when packages do.
    """

    suite: str
    lines: tuple[str, ...]
    options: tuple[str, ...]
    digest: str


async def configured() -> Sources:
    """Return the sources of the distribution that apt of this host knows.

    Raises:
        CommandFailed: There is no apt, or it knows none.
    """
    form = "|".join(f"$({field})" for field in _FIELDS)
    told = await run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    options = await run(["apt-config", "dump"])
    return chosen(
        told.stdout.decode(errors="replace").splitlines(),
        _PROXY.findall(options.stdout.decode(errors="replace")),
    )


def chosen(targets: Iterable[str], options: Iterable[str]) -> Sources:
    """Choose from what `apt-get indextargets` told, one `|`-separated line each.

    Raises:
        CommandFailed: None is of Debian or Ubuntu.
    """
    suites: dict[tuple[str, str, str], list[str]] = {}
    codenames: list[str] = []
    digest = hashlib.sha256()
    for line in sorted(set(targets)):
        origin, uri, release, codename, component, file = (line.split("|") + [""] * 6)[:6]
        if component not in _ORIGINS.get(origin, (None, set[str]()))[1]:
            continue
        suites.setdefault((origin, uri, release), []).append(component)
        codenames.append(codename)
        digest.update(f"{line}\0{_content(Path(file))}\n".encode())
    if not suites:
        raise CommandFailed(
            "apt knows no packages of Debian or Ubuntu; run `apt-get update` and try again"
        )
    lines = []
    for (origin, uri, release), components in suites.items():
        keyring = _ORIGINS[origin][0]
        signed = f"[signed-by={keyring}] " if keyring.exists() else ""
        lines.append(f"deb {signed}{uri} {release} {' '.join(components)}")
    # `bookworm-security` and such belong to the release with the shortest name.
    suite = min(codenames, key=len)
    kept = tuple(options)
    digest.update("\n".join((*lines, *kept)).encode())
    return Sources(suite=suite, lines=tuple(lines), options=kept, digest=digest.hexdigest())


def _content(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""  # packed, and read by apt alone
