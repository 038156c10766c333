"""`lab exec` and `lab cp` against the real API over the real engine on fakes."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from labd.cli.untar import unpack
from labd.model.errors import GuestFailed
from labd.model.machine import ExecResult
from tests.fakes.host import FakeMachine
from tests.unit.cli_runner import LAB, Cli

FOLDERS = {"", "/tmp", "/root"}


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab.server.daemon.host.shell = shell
    lab("up", lab.web)
    return lab


def shell(machine: FakeMachine, argv: Sequence[str]) -> ExecResult:
    """Know `say OUT ERR STATUS`, `huge` (more than is kept), `which` (the node's name), `chmod`."""
    match list(argv):
        case ["say", out, err, status]:
            return ExecResult(status=int(status), stdout=out.encode(), stderr=err.encode())
        case ["huge"]:
            return ExecResult(status=0, stdout=b"x", stderr=b"", truncated=True)
        case ["which"]:
            return ExecResult(status=0, stdout=f"{machine.spec.node}\n".encode(), stderr=b"")
        case ["test", "-d", path]:
            there = path.rstrip("/") in FOLDERS
            return ExecResult(status=0 if there else 1, stdout=b"", stderr=b"")
        case ["chmod", mode, path]:
            machine.files[path + " has"] = mode.encode()
            return ExecResult(status=0, stdout=b"", stderr=b"")
    raise GuestFailed(f"the guest agent of {machine.name} refused guest-exec: no {argv[0]}")


def files(lab: Cli, node: str) -> dict[str, bytes]:
    """Return the files of a guest; of one with a mode, `PATH has` is the mode."""
    return lab.server.daemon.host.machines[lab.server.key(node)].files


def piped(lab: Cli, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `lab` in a process of its own, with a pipe as stdin."""
    words = [LAB, "--root", str(lab.server.root), *args]
    return subprocess.run(words, input=stdin, capture_output=True, timeout=60, check=False)


def test_output_errors_and_status_are_kept_apart(lab: Cli) -> None:
    assert lab.both("exec", "-n", "web/a", "--", "say", "out", "err", "7", expect=7) == (
        "out",
        "err",
    )
    assert lab.both("exec", "-n", "web/a", "say", "", "", "-9", expect=137) == ("", "")
    assert lab("exec", "-n", "web/a", "which") == "a\n"
    said = json.loads(lab("exec", "--json", "-n", "web/a", "say", "ö", "", "0"))
    assert said == {
        "lab": "web",
        "node": "a",
        "status": 0,
        "stdout": "ö",
        "stderr": "",
        "truncated": False,
    }
    out, err = lab.both("exec", "-n", "web/a", "huge")
    assert (out, err) == ("x", "lab: there was more than 1 MiB of output; the rest is lost\n")


def test_stdin_is_passed_whole_or_refused(lab: Cli) -> None:
    data = bytes(range(256)) * 2048  # as much as is taken
    done = piped(lab, "exec", "web/a", "--", "cat", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
    done = piped(lab, "exec", "web/a", "--", "cat", stdin=data + b"x")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (
        b"lab: stdin of a command is at most 512 KiB; copy it with `lab cp` first, and have the "
        b"command read the file\n"
    )
    assert piped(lab, "exec", "-n", "web/a", "--", "cat", stdin=b"no").stdout == b""


def test_all_nodes_are_asked_and_the_highest_status_counts(lab: Cli) -> None:
    assert lab("exec", "-n", "--all", "web", "--", "which") == "a: a\nb: b\n"
    out, err = lab.both("exec", "-n", "--all", "web", "say", "x\ny", "bad", "3", expect=3)
    assert out == "a: x\na: y\nb: x\nb: y\n"
    assert err == "a: bad\na: ended with 3\nb: bad\nb: ended with 3\n"
    out, err = lab.both("exec", "--json", "-n", "--all", "web", "nothing", expect=255)
    nodes = json.loads(out)["nodes"]
    assert [(node["node"], node["error"]["code"]) for node in nodes] == [
        ("a", "guest_failed"),
        ("b", "guest_failed"),
    ]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (
            ("exec", "web", "x"),
            2,
            "'web' is a lab: name a node, as web/NODE, or ask every node with --all",
        ),
        (("exec", "web/a", "--"), 2, "there is no command; write it behind --"),
        (("exec", "--all", "web/a", "x"), 2, "--all wants a lab: lab exec --all web -- x"),
        (("exec", "-n", "web/c", "x"), 4, "there is no node web/c; known: a, b"),
        (("exec", "-n", "--all", "wed", "x"), 4, "there is no lab wed; did you mean 'web'?"),
        (
            ("exec", "-n", "web/a", "nothing"),
            255,
            "the guest agent of web/a refused guest-exec: no nothing",
        ),
        (
            ("cp", "a", "b"),
            2,
            (
                "one of SOURCE and TARGET is LAB/NODE:PATH, the other a path here "
                "(write ./a/b:c for a local name like that)"
            ),
        ),
        (
            ("cp", "web/a:/x", "web/b:/x"),
            2,
            (
                "one of SOURCE and TARGET is LAB/NODE:PATH, the other a path here "
                "(write ./a/b:c for a local name like that)"
            ),
        ),
        (("cp", "/nowhere/x", "web/a:/x"), 2, "cannot read /nowhere/x: No such file or directory"),
        (("cp", "/etc", "web/a:/x"), 2, "/etc is a folder; give -r"),
        (("cp", "-r", "/etc/hostname", "web/a:/x"), 2, "/etc/hostname is no folder; leave out -r"),
        (
            ("cp", "-r", "web/a:/x", "/etc/hostname"),
            2,
            "/etc/hostname is there already; remove it, or copy to another name",
        ),
        (("cp", "-r", "web/a:/", "/nowhere"), 2, "/ names no folder to copy; write its whole path"),
        (
            ("cp", "web/a:/x", "/tmp/x"),
            1,
            "the guest agent of web/a refused guest-file-open: /x",
        ),
        (("cp", "web/c:/x", "/tmp/x"), 4, "there is no node web/c; known: a, b"),
    ],
)
def test_bad_usage(lab: Cli, args: tuple[str, ...], status: int, message: str) -> None:
    assert lab(*args, expect=status) == f"lab: {message}\n"
    assert files(lab, "a") == files(lab, "b") == {}


def test_a_file_goes_there_and_back(lab: Cli, tmp_path: Path) -> None:
    local = tmp_path / "tool"
    local.write_bytes(b"#!\x00\xff")
    local.chmod(0o755)
    assert json.loads(lab("--json", "cp", str(local), "web/a:/root/"))["bytes"] == 4
    assert files(lab, "a") == {"/root/tool": b"#!\x00\xff", "/root/tool has": b"755"}
    back = tmp_path / "back"
    back.mkdir()
    assert lab("cp", "web/a:/root/tool", str(back)) == ""
    assert (back / "tool").read_bytes() == b"#!\x00\xff"
    assert lab("cp", "web/a:/root/tool", "/dev/null") == ""
    assert piped(lab, "cp", "web/a:/root/tool", "-").stdout == b"#!\x00\xff"
    assert piped(lab, "cp", "-", "web/b:/x", stdin=b"in").returncode == 0
    assert files(lab, "b")["/x"] == b"in"
    assert lab("cp", "web/a:/root/tool", "/nowhere/x", expect=2) == (
        "lab: cannot write /nowhere/x: No such file or directory\n"
    )
    assert [path.name for path in tmp_path.rglob(".labd-*")] == []


def archive(*members: tuple[str, bytes | str | None]) -> io.BytesIO:
    """Return a tar of files (bytes), folders (None) and symbolic links (their targets)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o6777
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    file.seek(0)
    return file


def test_only_files_and_folders_come_out_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "d"
    file = archive(("d", None), ("d/x", b"x"), ("d/l", "/etc"), ("d/l/y", b"y"), ("d/e", None))
    assert unpack(file, "d", str(path)) == ["d/l"]
    assert sorted(item.name for item in path.rglob("*")) == ["e", "l", "x", "y"]
    assert not (path / "l").is_symlink()
    assert (path / "x").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", "the guest sent an archive with the name '../x' in it: refused"),
        ("/d/x", "the guest sent an archive with the name '/d/x' in it: refused"),
        ("d/../../x", "the guest sent an archive with the name 'd/../../x' in it: refused"),
        ("other", "the guest sent an archive with the name 'other' in it: refused"),
        ("d", "d is no folder in the guest; leave out -r"),
    ],
)
def test_an_archive_of_an_attacker_leaves_nothing(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(GuestFailed) as caught:
        unpack(
            archive(("d/first", b""), (name, b"x")) if name != "d" else archive((name, b"x")),
            "d",
            str(tmp_path / "d"),
        )
    assert caught.value.message == message
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(GuestFailed, match="the guest sent an archive that is damaged"):
        unpack(io.BytesIO(b"x" * 1024), "d", str(tmp_path / "d"))
    assert list(tmp_path.iterdir()) == []
