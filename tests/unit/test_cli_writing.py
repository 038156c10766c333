"""Files that verbs write are there whole, or as they were."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from labd.cli.writing import writing
from labd.model.errors import InputError, StorageFailed
from tests.unit.cli_runner import LAB, Cli

GOOD = b"what was there"


def shell(lab: Cli, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash that names `$lab`."""
    words = ["bash", "-c", line.replace("$lab", f"{LAB} --root {lab.server.root}")]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_what_cannot_be_written_to_its_end_leaves_what_was_there(lab: Cli, tmp_path: Path) -> None:
    folder, path = tmp_path / "out", tmp_path / "out" / "file"
    folder.mkdir()
    path.write_bytes(GOOD)
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    lab.server.daemon.host.machines[lab.server.key("a")].files["/x"] = b"x"
    for verb, hint in (
        (f"checkpoint export c {path}", "; choose another FILE"),
        (f"screenshot web/a -o {path}", "; choose another -o"),
        (f"inventory web -o {path}", "; choose another --output"),
        (f"ssh-config -o {path}", "; choose another --output"),
        (f"cp web/a:/x {path}", ""),
    ):
        done = shell(lab, f"ulimit -f 0; $lab {verb}")
        said = f"lab: cannot write {path}: File too large{hint}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
        assert path.read_bytes() == GOOD, verb
    done = shell(lab, f"ulimit -f 0; $lab plugin new half --dir {folder}")
    assert (done.returncode, done.stderr) == (
        2,
        f"lab: cannot write {folder}/half: File too large\n",
    )
    assert [item.name for item in folder.iterdir()] == ["file"]


def test_an_output_that_is_full_is_told(lab: Cli) -> None:
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    for verb in ("ls", "checkpoint export c -"):
        done = shell(lab, f"$lab {verb} > /dev/full")
        said = "lab: the output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said), verb


def test_a_checkpoint_passes_through_a_pipe(lab: Cli) -> None:
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    done = shell(lab, "$lab checkpoint export c - | $lab checkpoint import - --name d")
    assert (done.returncode, done.stdout) == (0, "checkpoint d is there (1 B)\n"), done.stderr


def test_an_export_that_breaks_off_leaves_what_was_there(lab: Cli, tmp_path: Path) -> None:
    folder, path = tmp_path / "out", tmp_path / "out" / "c.tar"
    folder.mkdir()
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    broken = StorageFailed("c cannot be read to its end")
    lab.server.daemon.checkpoints.fail["pack"] = broken
    for there in ([], ["c.tar"]):
        assert "labd" in lab("checkpoint", "export", "c", str(path), expect=3)
        assert [item.name for item in folder.iterdir()] == there
        path.write_bytes(GOOD)
    assert path.read_bytes() == GOOD
    lab.server.daemon.checkpoints.fail.clear()
    lab("checkpoint", "export", "c", str(path))
    assert path.read_bytes().startswith(b"exported ")


def test_a_new_file_has_the_mode_of_the_old_one_or_of_the_umask(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    umask = os.umask(0o027)
    try:
        for mode in (0o640, 0o604):
            with writing(str(path)) as file:
                file.write(b"1")
            assert path.stat().st_mode & 0o777 == mode
            path.chmod(0o604)
    finally:
        os.umask(umask)
    link.symlink_to("file")
    with writing(str(link)) as file:
        file.write(b"22")
        assert path.read_bytes() == b"1", "it is not there before it is whole"
    assert link.is_symlink()
    assert path.read_bytes() == b"22"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "link"]


def test_a_block_that_is_interrupted_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    with pytest.raises(KeyboardInterrupt), writing(str(path)) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == GOOD
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_folders_devices_and_pipes_stay_what_they_are(lab: Cli, tmp_path: Path) -> None:
    said = f"cannot write {tmp_path}: Is a directory"
    with pytest.raises(InputError, match=said), writing(str(tmp_path)):
        pass
    lab("up", lab.web)
    for target in (f"> {tmp_path}/out", f"| cat > {tmp_path}/out"):
        done = shell(lab, f"$lab inventory web -o /dev/stdout {target}")
        assert (done.returncode, done.stderr) == (0, "")
        assert '"ansible_host"' in (tmp_path / "out").read_text()
        assert os.readlink("/dev/stdout") == "/proc/self/fd/1"
