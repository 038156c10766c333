"""Build a Debian package of labd: `make deb`.

The libraries that labd needs are not all in Debian, or too old there. So the package has them, at
the versions of requirements-package.lock, in a virtual environment below /usr/lib/labd that stands
on Debian's own python3. Compiled modules carry the version of Python in their names, hence those
for all supported versions lie side by side, and one package serves several releases.

Nothing of the host that builds gets in but pip and dpkg-deb; two builds of one commit are the same.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from labd import __version__
from labd.host import config
from tools import completions, manpages

ROOT: Final = Path(__file__).resolve().parents[1]
SCRIPTS: Final = ROOT / "tools" / "deb"
PYTHONS: Final = ("3.11", "3.12", "3.13")
PYTHON_AFTER: Final = "3.14"
# dpkg's name of an architecture -> that of Python's wheels.
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBCS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux2014", "manylinux_2_17")
_HOME: Final = "usr/lib/labd"
_SITE: Final = f"{_HOME}/lib/python{PYTHONS[0]}/site-packages"
_ENTRY: Final = """\
#!/usr/lib/labd/bin/python3 -I
import sys

from {module} import main

sys.exit(main())
"""
_LICENCES: Final = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def run(*argv: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command; its output is shown only when it fails."""
    done = subprocess.run(
        argv,
        check=False,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"deb: {argv[0]} failed:\n{done.stdout}{done.stderr}")


def pip(verb: str, version: str, machine: str) -> list[str | Path]:
    """Return the command that installs or downloads the locked libraries for one Python."""
    return [
        *(sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--only-binary=:all:", "--implementation=cp"),
        *(f"--platform={glibc}_{machine}" for glibc in _GLIBCS),
        *(f"--python-version={version}", "--require-hashes"),
        *("-r", ROOT / "requirements-package.lock"),
    ]


def libraries(tree: Path, machine: str, scratch: Path) -> None:
    """Install the locked libraries, for all versions of Python, side by side.

    Raises:
        SystemExit: Two versions want different files of the same name.
    """
    site = tree / _SITE
    site.mkdir(parents=True)
    for version in PYTHONS:
        made = scratch / version
        run(*pip("install", version, machine), "--no-compile", "--no-deps", "--target", made)
        shutil.rmtree(made / "bin", ignore_errors=True)
        for file in sorted(made.rglob("*")):
            place = site / file.relative_to(made)
            about = ".dist-info/" in str(file)
            if file.is_dir() or (about and file.name in _LICENCES):
                continue
            if place.exists() and not filecmp.cmp(file, place, shallow=False):
                if not about:
                    sys.exit(f"deb: {place.name} differs between versions of Python")
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def programs(tree: Path, scratch: Path) -> None:
    """Install labd itself, and the environment around it."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch / "wheel")
    [wheel] = (scratch / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if ".data/" not in name]
        opened.extractall(tree / _SITE, [name for name in names if not name.endswith("/RECORD")])
    (tree / _HOME / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n"
    )
    for version in PYTHONS[1:]:
        (tree / _HOME / "lib" / f"python{version}").symlink_to(f"python{PYTHONS[0]}")
    folder = tree / _HOME / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to("/usr/bin/python3")
    (tree / "usr" / "bin").mkdir()
    for name, module in (("lab", "labd.cli.main"), ("labd", "labd.daemon")):
        program = tree / "usr" / "bin" / name
        program.write_text(_ENTRY.format(module=module))
        program.chmod(0o755)
    unit = tree / "usr" / "lib" / "systemd" / "system" / "labd.service"
    unit.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "labd" / "systemd" / "labd.service", unit)


def manuals(tree: Path, when: int) -> None:
    """Install man pages, completion scripts and what is to be read."""
    share = tree / "usr" / "share"
    for page in manpages.write(share / "man"):
        pack(page)
    completions.write(share)
    (share / "zsh" / "site-functions").rename(share / "zsh" / "vendor-completions")
    folder = share / "doc" / "labd"
    (folder / "examples").mkdir(parents=True)
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copyfile(ROOT / name, folder / name)
    pack(folder / "CHANGELOG.md")
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(when))
    changes = folder / "changelog"
    changes.write_text(
        f"labd ({__version__}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- labd maintainers <maintainers@labd.invalid>  {date}\n"
    )
    pack(changes)
    keys = [line[4:] for line in (config.__doc__ or "").splitlines() if line.startswith("    ")]
    (folder / "examples" / "labd.toml").write_text("".join(f"# {line}\n" for line in keys))
    (folder / "copyright").write_text(copyright_of(tree / _SITE))
    overrides = share / "lintian" / "overrides"
    overrides.mkdir(parents=True)
    shutil.copyfile(SCRIPTS / "lintian-overrides", overrides / "labd")


def pack(file: Path) -> None:
    """Replace a file by a packed one that has no date."""
    data = gzip.compress(file.read_bytes(), 9, mtime=0)
    file.with_name(f"{file.name}.gz").write_bytes(data)
    file.unlink()


def copyright_of(site: Path) -> str:
    """Return the text of the copyright file: labd's licence and that of each library."""
    lines = [
        "labd: Copyright 2026 the labd maintainers.",
        "",
        "It is under the Apache License, Version 2.0, which on Debian systems is in",
        "/usr/share/common-licenses/Apache-2.0.",
        "",
        f"Below /{_SITE} are these libraries, unchanged.",
        "The folder *.dist-info of each has its authors and the text of its licence.",
        "",
    ]
    for file in sorted(site.glob("*.dist-info/METADATA")):
        about = HeaderParser().parsestr(file.read_text(encoding="utf-8"))
        if about["Name"] == "labd":
            continue
        named = [
            value.rpartition(" :: ")[2]
            for value in about.get_all("Classifier", [])
            if value.startswith("License ::")
        ]
        short = (about["License"] or "").splitlines()[:1]
        licence = about["License-Expression"] or ", ".join(named or short) or "see its folder"
        lines.append(f"  {about['Name']} {about['Version']}: {licence}")
    return "\n".join(lines) + "\n"


def control(tree: Path, architecture: str) -> None:
    """Write the control files, with scripts and checksums."""
    files = sorted(file for file in tree.rglob("*") if file.is_file() and not file.is_symlink())
    size = sum(-(-file.stat().st_size // 1024) for file in files)
    sums = [
        f"{hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{file.relative_to(tree)}\n"
        for file in files
    ]
    folder = tree / "DEBIAN"
    folder.mkdir(mode=0o755)
    text = (SCRIPTS / "control").read_text()
    for name, value in (
        ("VERSION", __version__),
        ("ARCHITECTURE", architecture),
        ("SIZE", str(size)),
        ("PYTHON_AFTER", PYTHON_AFTER),
    ):
        text = text.replace(f"@{name}@", value)
    (folder / "control").write_text(text)
    (folder / "md5sums").write_text("".join(sums))
    for name in ("preinst", "postinst", "prerm", "postrm"):
        shutil.copyfile(SCRIPTS / name, folder / name)
        (folder / name).chmod(0o755)


def date_of_source() -> int:
    """Return when the source was last changed: $SOURCE_DATE_EPOCH, or the commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    argv = ["git", "log", "-1", "--format=%ct"]
    found = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True).stdout
    return int(found) if found.strip() else int((ROOT / "CHANGELOG.md").stat().st_mtime)


def build(folder: Path) -> Path:
    """Build the package into a folder; return its file."""
    asked = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    )
    architecture = asked.stdout.strip()
    if architecture not in MACHINES:
        sys.exit(f"deb: labd is built for {', '.join(MACHINES)}, not for {architecture}")
    when = date_of_source()
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"labd_{__version__}_{architecture}.deb"
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="labd-deb-") as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir(mode=0o755)
        libraries(tree, MACHINES[architecture], Path(scratch))
        programs(tree, Path(scratch))
        manuals(tree, when)
        control(tree, architecture)
        run(
            *("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package),
            env={"SOURCE_DATE_EPOCH": str(when)},
        )
    return package


def main() -> None:
    """Build into the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__, prog="deb")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    print(build(parser.parse_args().folder))


if __name__ == "__main__":
    main()
