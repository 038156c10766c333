"""`lab cp`."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import sys
import tempfile

import click

from labd.cli.session import Session, verb
from labd.cli.writing import refusals, writing
from labd.model.errors import GuestFailed, InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_REMOTE = re.compile(r"([a-z][a-z0-9-]{0,30})/([a-z][a-z0-9-]{0,30}):(.*)", re.DOTALL)
_CHUNK = 256 << 10
_TIMEOUT = 3600.0  # seconds for tar in the guest
# Made and removed by the guest's own shell; arguments: folder, archive, and the name to pack.
_PACK = 'tar -C "$1" -cf "$2" "$3"'
_UNPACK = 'mkdir -p "$1" && tar -C "$1" -xf "$2"; status=$?; rm -f "$2"; exit $status'


class _Guest:
    """One node's files."""

    def __init__(self, session: Session, lab: str, node: str, path: str) -> None:
        self.name = f"{lab}/{node}"
        self.path = path or "."
        self._where = (lab, node)
        self._guests = session.client.guests

    def run(self, *argv: str) -> tuple[int, str]:
        """Return status and stderr of a command."""
        done = self._guests.execute(*self._where, argv, timeout=_TIMEOUT)
        return done.status, done.stderr.decode(errors="replace").strip()

    def must(self, *argv: str) -> None:
        """Run a command that has to succeed."""
        status, said = self.run(*argv)
        if status:
            raise GuestFailed(
                f"{argv[0]} in {self.name} ended with {status}: "
                f"{said.splitlines()[-1][:300] if said else 'it said nothing'}"
            )

    def is_folder(self, path: str) -> bool:
        """True if there is a folder; no, where the guest has no test(1)."""
        with contextlib.suppress(GuestFailed):
            return self.run("test", "-d", path)[0] == 0
        return False

    def read(self, path: str) -> Iterator[bytes]:
        """Yield a file's content."""
        return self._guests.read(*self._where, path)

    def write(self, path: str, file: BinaryIO) -> int:
        """Write a file."""
        return self._guests.write(*self._where, path, iter(lambda: file.read(_CHUNK), b""))


@verb("cp")
@click.option("-r", "recursive", is_flag=True, help="Copy a folder; the guest needs tar(1).")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
def cp(session: Session, recursive: bool, source: str, target: str) -> None:
    """Copy a file to a node or from one, by the guest agent; it needs no network.

    One side is LAB/NODE:PATH, the other a path here, or `-` for stdin or stdout. A target that is
    a folder gets the copy inside. Folders bring no links: they are left out, and said.
    """
    far, near = _guest(session, source), _guest(session, target)
    if (far is None) == (near is None):
        raise InputError(
            "one of SOURCE and TARGET is LAB/NODE:PATH, the other a path here "
            "(write ./a/b:c for a local name like that)"
        )
    if near is not None:
        count = (_send_folder if recursive else _send)(near, source)
    else:
        assert far is not None  # noqa: S101 - one of the two is
        count = (_fetch_folder if recursive else _fetch)(session, far, target)
    if session.json:
        session.emit({"source": source, "target": target, "bytes": count})


def _guest(session: Session, text: str) -> _Guest | None:
    found = _REMOTE.fullmatch(text)
    return _Guest(session, *found.groups()) if found else None


def _send(guest: _Guest, source: str) -> int:
    if source == "-":
        return guest.write(guest.path, sys.stdin.buffer)
    with _opened(source) as file:
        path = guest.path
        if path.endswith("/") or guest.is_folder(path):
            path = posixpath.join(path, os.path.basename(source))
        facts = os.fstat(file.fileno())
        count = guest.write(path, file)
        if facts.st_mode & 0o111:
            guest.must("chmod", "755", path)
        return count


def _fetch(_: Session, guest: _Guest, target: str) -> int:
    if target == "-":
        sys.stdout.flush()
        return sum(sys.stdout.buffer.write(part) for part in guest.read(guest.path))
    path = target
    if os.path.isdir(target):
        path = os.path.join(target, posixpath.basename(guest.path.rstrip("/")))
    with writing(path) as file:
        return sum(file.write(part) for part in guest.read(guest.path))


def _send_folder(guest: _Guest, source: str) -> int:
    import tarfile

    folder = os.path.abspath(source)
    if not os.path.isdir(folder):
        raise InputError(f"{source} is no folder; leave out -r")
    inside = guest.path.endswith("/") or guest.is_folder(guest.path)
    path = posixpath.join(guest.path, os.path.basename(folder)) if inside else guest.path
    parent, name = posixpath.split(path.rstrip("/"))

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir()):
            sys.stderr.write(f"lab: left out {member.name}: it is neither file nor folder\n")
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(folder, name, filter=plain)
        size = file.tell()
        file.seek(0)
        away = _away()
        guest.write(away, file)
        guest.must("sh", "-c", _UNPACK, "sh", parent or ".", away)
    return size


def _fetch_folder(session: Session, guest: _Guest, target: str) -> int:
    from labd.cli.untar import unpack

    parent, name = posixpath.split(guest.path.rstrip("/") or "/")
    if name in {"", ".", ".."}:
        raise InputError(f"{guest.path} names no folder to copy; write its whole path")
    path = os.path.join(target, name) if os.path.isdir(target) else target
    if os.path.lexists(path):
        raise InputError(f"{path} is there already; remove it, or copy to another name")
    with tempfile.TemporaryFile() as file:
        away = _away()
        try:
            guest.must("sh", "-c", _PACK, "sh", parent or ".", away, name)
            count = sum(file.write(part) for part in guest.read(away))
        finally:
            with contextlib.suppress(GuestFailed):
                guest.run("rm", "-f", away)
        file.seek(0)
        with refusals(path):
            for left in unpack(file, name, path):
                session.note(f"lab: left out {left}: it is neither file nor folder")
    return count


def _away() -> str:
    """Return the path of an archive in the guest."""
    import secrets

    return f"/tmp/.labd-cp-{secrets.token_hex(6)}.tar"


@contextlib.contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if os.path.isdir(source):
        raise InputError(f"{source} is a folder; give -r")
    try:
        file = open(source, "rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    with file:
        yield file
