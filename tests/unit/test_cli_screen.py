"""`lab screenshot`, `type` and `vnc` against the real API over the real engine on fakes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import running
from tests.unit.cli_runner import LAB, Cli


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab("up", lab.web)
    return lab


@contextlib.contextmanager
def forwarded(lab: Cli) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    words = [LAB, "--root", str(lab.server.root), "vnc", "web/a"]
    with running(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        line = child.stdout.readline().decode()
        assert line.startswith("vnc://127.0.0.1:")
        yield child, int(line.rpartition(":")[2])


def test_a_picture_goes_to_a_file_or_a_pipe(lab: Cli, tmp_path: Path) -> None:
    path, screens = tmp_path / "x.png", lab.server.daemon.screens
    picture = lab.server.run(screens.screenshot(lab.server.key("a")))
    assert lab("screenshot", "web/a", "-o", str(path)) == f"{path}: 640x480\n"
    assert path.read_bytes() == picture
    said = json.loads(lab("--json", "screenshot", "web/a", "-o", str(path)))
    assert said == {"file": str(path), "width": 640, "height": 480, "bytes": len(picture)}
    done = subprocess.run(
        [LAB, "--root", str(lab.server.root), "screenshot", "web/a", "-o", "-"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == picture


def test_text_and_keys_are_typed_in_order(lab: Cli) -> None:
    assert lab("type", "web/a", "Hi", "--enter", "--key", "ctrl-alt-f2", "--key", "esc") == ""
    assert lab.server.daemon.screens.pressed[lab.server.key("a")] == [
        ("shift", "h"),
        ("i",),
        ("ret",),
        ("ctrl", "alt", "f2"),
        ("esc",),
    ]
    assert json.loads(lab("--json", "type", "web/a", "ab")) == {
        "lab": "web",
        "node": "a",
        "keys": 2,
    }


def test_viewers_come_and_go_while_vnc_runs(lab: Cli) -> None:
    with forwarded(lab) as (child, port):
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as viewer:
                assert viewer.recv(12) == b"RFB 003.008\n"
                viewer.sendall(b"back")
                assert viewer.recv(4) == b"\x01\x01"
        assert child.poll() is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("screenshot", "web"), 2, "'web' is not LAB/NODE; write it like web/server"),
        (("screenshot", "web/c", "-o", "/dev/null"), 4, "there is no node web/c; known: a, b"),
        (
            ("screenshot", "web/a", "-o", "/nowhere/x.png"),
            2,
            "cannot write /nowhere/x.png: No such file or directory; choose another -o",
        ),
        (
            ("type", "web/a"),
            2,
            "there is nothing to type: give a text, or keys like ctrl-alt-f2",
        ),
        (
            ("type", "web/a", "€"),
            2,
            "character '€' at place 1 is not on a US keyboard; leave it out",
        ),
        (
            ("type", "web/a", "--key", "hyper-x"),
            2,
            (
                "'hyper' in 'hyper-x' is no key; did you mean 'super'?; "
                "write keys like ctrl-alt-f2, shift-a or enter"
            ),
        ),
        (("vnc", "web/c"), 4, "there is no node web/c; known: a, b"),
    ],
)
def test_bad_usage(lab: Cli, args: tuple[str, ...], status: int, message: str) -> None:
    assert lab(*args, expect=status) == f"lab: {message}\n"
    assert lab.server.daemon.screens.pressed == {}


def test_a_port_that_is_taken_is_told(lab: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert lab("vnc", "web/a", "--port", str(port), expect=2) == (
            f"lab: cannot listen on 127.0.0.1:{port}: Address already in use; "
            "choose another --port\n"
        )
