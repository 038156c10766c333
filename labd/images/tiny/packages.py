"""Debian packages taken apart beside the host's own package set: nothing is installed.

apt resolves versions and verifies what it downloads against its signed lists; labd only follows the
dependencies on libraries, since the programs of the guest need no more than these.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labd.host.commands import run
from labd.host.threads import bulk
from labd.model.errors import CommandFailed

_LIBRARY = re.compile(r"lib(?!.*-perl$)[a-z0-9.+-]*[0-9]g?(t64|debian)?\Z|zlib1g\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package, as apt offers it.

    Attributes:
        sha256: Of the package file, 64 hex digits.
        depends: Names it depends on; of alternatives the first.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    depends: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The name that apt-get gives the downloaded file (a colon becomes %3a)."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


def parse_packages(text: str) -> dict[str, Package]:
    """Read the output of `apt-cache show --no-all-versions` (deb822 paragraphs).

    Several versions of one package are told newest first; the first one is taken.
    """
    found: dict[str, Package] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, re.MULTILINE))
        if not {"Package", "Version", "Architecture", "SHA256"} <= fields.keys():
            continue
        depends = [*_names(fields.get("Pre-Depends", "")), *_names(fields.get("Depends", ""))]
        package = Package(
            name=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            sha256=fields["SHA256"],
            depends=tuple(dict.fromkeys(depends)),
        )
        found.setdefault(package.name, package)
    return found


def _names(field: str) -> list[str]:
    """Return the first alternative of each term of a Depends field, without version and arch."""
    terms = [term.split("|")[0].strip() for term in field.split(",")]
    return [re.split(r"[\s(:\[<]", term)[0] for term in terms if term]


def is_library(name: str) -> bool:
    """True if a package of that name is a shared library."""
    return _LIBRARY.match(name) is not None


async def offered(names: Iterable[str]) -> dict[str, Package]:
    """Return what apt offers of these names; a name that it does not know is left out."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    try:
        shown = await run(["apt-cache", "show", "--no-all-versions", *wanted])
    except CommandFailed:
        # apt-cache fails as a whole when one name is unknown to it, so ask one by one.
        if len(wanted) == 1:
            return {}
        single = [await offered([name]) for name in wanted]
        return {name: package for found in single for name, package in found.items()}
    return parse_packages(shown.stdout.decode())


async def with_libraries(roots: Sequence[str]) -> dict[str, Package]:
    """Return the roots and every library package that they come to need.

    Raises:
        CommandFailed: apt offers no package of that name.
    """
    known: dict[str, Package] = {}
    wanted = set(roots)
    while wanted:
        found = await offered(wanted)
        if missing := sorted(wanted - found.keys()):
            raise CommandFailed(
                f"apt offers no package {', '.join(missing)}; run `apt-get update` and try again"
            )
        known |= found
        depends = {name for package in found.values() for name in package.depends}
        wanted = {name for name in depends if is_library(name)} - known.keys()
    return known


async def fetch(packages: Mapping[str, Package], folder: Path) -> list[Path]:
    """Download what is not in `folder` yet, and return all package files.

    Raises:
        CommandFailed: apt-get could not; what it got stays for the next try.
    """
    missing = await bulk(_missing, packages.values(), folder)
    if missing:
        # Aside and then renamed: apt, killed in the middle, leaves a short file under this name.
        aside = Path(await bulk(tempfile.mkdtemp, prefix=".fetch-", dir=folder))
        try:
            await _download(missing, aside)
            for package in missing:
                await bulk(_settle, aside, folder, package)
        finally:
            await bulk(shutil.rmtree, aside, ignore_errors=True)
    return [folder / package.file_name for package in packages.values()]


async def _download(packages: Iterable[Package], folder: Path) -> None:
    await run(
        # As root, apt would download as `_apt`, who cannot write here, and warn.
        ["apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root", "download"]
        + [f"{package.name}={package.version}" for package in packages],
        cwd=folder,
        timeout=900,
    )


def _settle(aside: Path, folder: Path, package: Package) -> None:
    data = (aside / package.file_name).read_bytes()
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise CommandFailed(
            f"apt downloaded another {package.name} than its lists promise; run `apt-get update` "
            "and try again"
        )
    (aside / package.file_name).replace(folder / package.file_name)


def _missing(packages: Iterable[Package], folder: Path) -> list[Package]:
    folder.mkdir(parents=True, exist_ok=True)
    return [package for package in packages if not (folder / package.file_name).exists()]


async def unpack(files: Iterable[Path], folder: Path) -> None:
    """Extract package files over each other into `folder`; no script of theirs is run.

    Raises:
        CommandFailed: A file is damaged.
    """
    for file in files:
        await run(["dpkg-deb", "--extract", str(file), str(folder)], timeout=120)
