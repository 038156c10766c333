"""Clean systems to install labd on: made by mmdebstrap, used in namespaces without a network."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labd.images.debian.sources import Sources, configured
from tools import deb

ROOT = Path(__file__).parents[2]
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends install"
# What a person's machine has besides, and the tests look with.
LOOKED_WITH = "man-db systemd bash-completion iproute2"


class Clean:
    """A clean system below a folder.

    Commands run in process, mount and network namespaces of their own, which end with them: what
    they leave running is killed, and what they need has to be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, script: str, *, check: bool = True) -> str:
        """Run a shell script as root of the system; return its output, standard error included."""
        done = subprocess.run(
            [
                *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                f"--mount-proc={self.folder}/proc",
                *("chroot", self.folder, "/usr/bin/env", "-i"),
                *(
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME=/root",
                ),
                *("LC_ALL=C.UTF-8", "sh", "-euc", script),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def exists(self, path: str) -> bool:
        """Tell whether there is something at a path, be it a link that leads nowhere."""
        return os.path.lexists(self.folder / path.lstrip("/"))


def _bare(sources: Sources, suite: str, folder: Path) -> None:
    """Make the base of a system: apt and what it needs."""
    lines = sources.lines
    if suite != sources.suite:
        # Its updates and security fixes have other names in some releases, and are not needed here.
        main = [line for line in lines if f" {sources.suite} " in line]
        lines = tuple(line.replace(f" {sources.suite} ", f" {suite} ") for line in main)
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", suite, folder, "-"],
        input="\n".join(lines) + "\n",
        text=True,
        check=True,
        timeout=900,
    )


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built now."""
    return deb.build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def base(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bare system that has the package in /root, and in apt's cache all that it depends on."""
    folder = tmp_path_factory.mktemp(request.param) / "root"
    _bare(asyncio.run(configured()), request.param, folder)
    (folder / "root" / "labd.deb").write_bytes(package.read_bytes())
    # A system of minutes need not be on the disk.
    (folder / "etc" / "dpkg" / "dpkg.cfg.d" / "labd-tests").write_text("force-unsafe-io\n")
    fetch = f"apt-get update -qq && {INSTALL} --download-only /root/labd.deb {LOOKED_WITH}"
    subprocess.run(
        ["chroot", folder, "sh", "-c", fetch], check=True, capture_output=True, timeout=900
    )
    return folder


@pytest.fixture(scope="session")
def with_labd(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same system with the package installed, and what apt said."""
    folder = tmp_path_factory.mktemp("installed") / "root"
    _copy(base, folder)
    return folder, Clean(folder).run(f"{INSTALL} /root/labd.deb {LOOKED_WITH}")


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


def _lent(source: Path, folder: Path) -> Iterator[Clean]:
    """Lend a copy of a system to one test."""
    _copy(source, folder)
    yield Clean(folder)
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


@pytest.fixture
def clean(base: Path, tmp_path: Path) -> Iterator[Clean]:
    """A system that has never seen labd."""
    yield from _lent(base, tmp_path / "root")


@pytest.fixture
def installed(with_labd: tuple[Path, str], tmp_path: Path) -> Iterator[Clean]:
    """A system on which apt has installed labd."""
    yield from _lent(with_labd[0], tmp_path / "root")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheel of labd and all that it needs."""
    folder = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    newest = ["download", "--quiet", "--disable-pip-version-check", "-d", str(folder), "pip"]
    subprocess.run([sys.executable, "-m", "pip", *newest], check=True, timeout=600)
    machine = os.uname().machine
    for version in deb.PYTHONS:
        subprocess.run(
            [*deb.pip("download", version, machine), "--no-deps", "-d", folder],
            check=True,
            timeout=600,
        )
    return folder
