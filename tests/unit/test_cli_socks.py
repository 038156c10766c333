"""SOCKS 5 as RFC 1928 writes it, byte for byte; and hosts and options for OpenSSH."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from labd.cli.openssh import host_name, options, parse_host, write_key
from labd.cli.session import Session
from labd.cli.socks import Unsuitable, accept
from labd.model.errors import (
    Conflict,
    DaemonUnreachable,
    InputError,
    LabdError,
    NetworkFailed,
    NotFound,
)

HELLO, YES = b"\5\1\0", b"\5\0"


def reply(code: int) -> bytes:
    return bytes([5, code, 0, 1]) + bytes(6)


def talk(said: bytes, error: LabdError | None = None) -> tuple[bytes, list[tuple[str, int]], str]:
    """Return what the proxy answers, where it was asked to connect to, and how it ended."""
    asked: list[tuple[str, int]] = []
    near, far = socket.socketpair()
    spare, other = socket.socketpair()

    def way_to(host: str, port: int) -> socket.socket:
        asked.append((host, port))
        if error is not None:
            raise error
        return spare

    ended: list[str] = []

    def run() -> None:
        try:
            accept(far, way_to)
            ended.append("connected")
        except (Unsuitable, LabdError) as failure:
            ended.append(type(failure).__name__)
        far.close()

    thread = threading.Thread(target=run)
    thread.start()
    near.settimeout(10)
    near.sendall(said)
    near.shutdown(socket.SHUT_WR)
    answer = b""
    # Closing with bytes of ours unread is told as a reset.
    with contextlib.suppress(ConnectionResetError):
        while chunk := near.recv(100):
            answer += chunk
    thread.join(10)
    for end in (near, spare, other):
        end.close()
    return answer, asked, ended[0]


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        (b"\5\1\0\1" + bytes([10, 0, 0, 1]) + b"\0\x50", ("10.0.0.1", 80)),
        (b"\5\1\0\3\3web\x01\xbb", ("web", 443)),
        (b"\5\1\0\4" + bytes(15) + b"\1\0\x16", ("::1", 22)),
    ],
)
def test_the_three_kinds_of_address(request_: bytes, place: tuple[str, int]) -> None:
    assert talk(HELLO + request_) == (YES + reply(0), [place], "connected")


def test_several_methods_are_offered() -> None:
    answer, _, _ = talk(b"\5\3\2\1\0" + b"\5\1\0\3\1a\0\x50")
    assert answer == YES + reply(0)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\4\1\0\x50\x0a\0\0\1\0", b""),  # SOCKS 4
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"", b""),
        (b"\5", b""),
        (b"\5\1\2", b"\5\xff"),  # a password only
        (HELLO + b"\5\1", YES),
        (HELLO + b"\5\2\0\1" + bytes(4) + b"\0\x50", YES + reply(7)),  # BIND
        (HELLO + b"\5\3\0\1" + bytes(4) + b"\0\x50", YES + reply(7)),  # UDP ASSOCIATE
        (HELLO + b"\5\1\0\2" + bytes(4) + b"\0\x50", YES + reply(8)),
        (HELLO + b"\5\1\0\3\2\xff\xff\0\x50", YES),
    ],
)
def test_what_it_does_not_do_is_told(said: bytes, answer: bytes) -> None:
    assert talk(said) == (answer, [], "Unsuitable")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NetworkFailed("refused", errno=111), 5),
        (NetworkFailed("no answer", errno=110), 4),
        (NotFound("no node"), 4),
        (InputError("no subnet"), 4),
        (Conflict("it is stopped"), 4),
        (DaemonUnreachable("away"), 1),
    ],
)
def test_a_failure_has_its_code(error: LabdError, code: int) -> None:
    answer, _, ended = talk(HELLO + b"\5\1\0\3\3web\0\x50", error)
    assert answer == YES + reply(code)
    assert ended == type(error).__name__


# OpenSSH


def test_a_host_name_is_read_back() -> None:
    assert parse_host(host_name("my-lab", "web-1")) == ("my-lab", "web-1")
    assert parse_host("my-lab/web-1") == ("my-lab", "web-1")
    for text in ("web", "web.lab", "a.b.c.lab", "a..lab", "web.my.com"):
        with pytest.raises(InputError, match="is neither LAB/NODE nor NODE"):
            parse_host(text)


def test_ssh_reads_the_options_whatever_is_in_the_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a b%c"))
    session = Session()
    session.root = str(tmp_path / "it's 100%")
    config = tmp_path / "config"
    lines = [f"    {key} {value}\n" for key, value in options(session).items()]
    config.write_text("Host *.*.lab\n" + "".join(lines))

    def shown(host: str) -> dict[str, str]:
        done = subprocess.run(
            ["ssh", "-G", "-F", str(config), host], capture_output=True, text=True, check=True
        )
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    found = shown("web.shop.lab")
    assert found["user"] == "root"
    assert found["proxyusefdpass"] == "yes"
    assert found["userknownhostsfile"] == "/dev/null"
    assert "%n %n %p" in found["proxycommand"]
    assert "'\"'\"'" in found["proxycommand"]
    assert "100%%" in found["proxycommand"]
    assert "proxycommand" not in shown("web.example.org")


def test_a_key_is_written_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "web.shop.lab"
    write_key(str(path), "one\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    before = path.stat().st_ino
    write_key(str(path), "one\n")
    assert path.stat().st_ino == before
    write_key(str(path), "two\n")
    assert path.read_text() == "two\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["web.shop.lab"]
