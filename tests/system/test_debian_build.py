"""A build of the Debian image that is killed leaves only files, which the next one removes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from labd.images.debian.recipe import _make_room
from tests.system.harness import REPO, cmdline, processes, until


def working_in(folder: Path) -> list[bytes]:
    """Return the command lines that name a folder, but that of the build itself."""
    found = [cmdline(pid) for pid in processes()]
    return [line for line in found if os.fsencode(folder) in line and b"labd.images" not in line]


def mounts_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]


def test_a_build_ends_with_its_daemon(tmp_path: Path) -> None:
    home = tmp_path / "debian"
    child = subprocess.Popen(
        [sys.executable, "-m", "labd.images.debian", "--cache", tmp_path],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: any(home.glob(".build-*/tree/var/lib")), "packages come", 90)
        assert working_in(home)
        assert mounts_below(home) == []  # they are in a namespace of its own
    finally:
        child.kill()
        child.wait(60)
    until(lambda: not working_in(home), lambda: str(working_in(home)), 10)
    assert mounts_below(home) == []
    _make_room(home)
    assert [item.name for item in home.iterdir()] == ["lock"]


def test_what_was_built_is_not_built_again(built_debian: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labd.images.debian", "--cache", REPO / ".cache"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == "debian: up to date\n"
