"""`lab image`."""

from __future__ import annotations

import contextlib
import os
import re
import sys

import click

from labd.cli.progress import wait_for_bytes
from labd.cli.session import Family, Session, verb
from labd.cli.text import age, size, table
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from labd.client.types import Image

_FORMATS = ["raw", "qcow2", "iso", "kernel"]


@click.group("image", cls=Family)
def image() -> None:
    """Images: what the disks of nodes begin with."""


@verb("ls")
def ls(session: Session) -> None:
    """List images."""
    found = session.client.images()
    if session.json:
        session.emit({"images": found})
        return
    if not found:
        session.note("no images; `lab image build tiny` makes a small Linux")
        return
    rows = [
        (
            item["name"],
            item["format"],
            size(item["size"]),
            size(item["virtual_size"]),
            item["digest"][7:19],
            age(item["created"]),
            item["source"],
        )
        for item in found
    ]
    session.say(table(("IMAGE", "FORMAT", "SIZE", "VIRTUAL", "DIGEST", "AGE", "SOURCE"), rows))


@verb("show")
@click.argument("name", metavar="IMAGE")
def show(session: Session, name: str) -> None:
    """Show an image, and who needs it."""
    found = session.client.image(name)
    if session.json:
        session.emit(found)
        return
    for key, value in found.items():
        text = ", ".join(map(str, value)) or "-" if isinstance(value, list) else value
        session.say(f"{key + ':':<14} {text if text != '' else '-'}")


@verb("rm")
@click.argument("name", metavar="IMAGE")
def rm(session: Session, name: str) -> None:
    """Remove an image that nothing needs."""
    session.client.remove_image(name)
    if session.json:
        session.emit({"removed": name})
    else:
        session.say(f"image {name} is removed")


@verb("build")
@click.argument("recipe")
@click.option("--name", default="", metavar="IMAGE", help="Name of the image; else the recipe's.")
def build(session: Session, recipe: str, name: str) -> None:
    """Build an image from a recipe, such as `tiny`; the same inputs come from the cache."""
    operation = session.client.build_image(recipe, name)
    wait_for_bytes(session, operation, f"building {recipe}")
    _there(session, session.client.image(name or recipe))


@verb("import")
@click.argument("source", metavar="FILE|URL")
@click.option("--name", metavar="IMAGE", help="Name of the image; else the file's.")
@click.option("--sha256", default="", metavar="DIGEST", help="64 hex digits that it must have.")
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="Else found by its header.")
@click.option("--initrd", metavar="FILE", help="Of a kernel.")
@click.option("--cmdline", default="", metavar="TEXT", help="Kernel command line that it needs.")
@click.option("--ready", default="", metavar="REGEX", help="Console line by which it is ready.")
def import_(
    session: Session,
    source: str,
    name: str | None,
    sha256: str,
    kind: str | None,
    initrd: str | None,
    cmdline: str,
    ready: str,
) -> None:
    """Take an image from a file or a URL; what is unsafe or damaged is refused.

    Disks of the formats VMDK, VDI, VHD and VHDX become qcow2.
    """
    digest = sha256.removeprefix("sha256:")
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise InputError("--sha256 is not 64 hex digits; `sha256sum FILE` prints them")
    wanted = name or _name_of(source)
    if re.match(r"https?://", source):
        if initrd or cmdline or ready:
            raise InputError("--initrd, --cmdline and --ready go with a file, not with a URL")
        operation = session.client.import_image(wanted, source, format=kind, sha256=digest)
        wait_for_bytes(session, operation, f"importing {wanted}")
        _there(session, session.client.image(wanted))
        return
    files = [source, initrd] if initrd else [source]
    if initrd and kind not in {None, "kernel"}:
        raise InputError(f"--initrd goes with a kernel, and not with --format {kind}")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_open(file)) for file in files]
        sizes = [os.fstat(file.fileno()).st_size for file in opened]
        progress = stack.enter_context(_bar(session, sum(sizes), f"importing {wanted}"))
        found = session.client.upload_image(
            wanted,
            opened,
            length=sum(sizes),
            progress=progress,
            format="kernel" if initrd else kind,
            sha256=digest,
            kernel_size=sizes[0] if initrd else None,
            cmdline=cmdline,
            ready=ready,
            source=os.path.basename(source),
        )
    _there(session, found)


def _open(path: str) -> BinaryIO:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(
                f"{path} is not a regular file; give a file, or a URL with http or https"
            )
        if not os.path.isfile(path):
            raise InputError(f"there is no file {path}; give a file, or a URL with http or https")
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _name_of(source: str) -> str:
    """Return an image's name made of a file's: lower case, and `-` for what no name can have."""
    stem = os.path.basename(source.split("?", maxsplit=1)[0].rstrip("/")).lower()
    stem = re.sub(r"(\.(raw|img|qcow2|iso|vmdk|vdi|vhdx?|gz|xz|zst))+$", "", stem)
    name = re.sub(r"[^a-z0-9-]+", "-", stem).strip("-")[:31]
    if not re.match(r"[a-z]", name):
        raise InputError(f"no name can be made of {source[:80]!r}; give one with --name")
    return name


@contextlib.contextmanager
def _bar(session: Session, length: int, label: str) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar on a terminal; plain output gets none."""
    if session.json or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def _there(session: Session, found: Image) -> None:
    if session.json:
        session.emit(found)
    else:
        session.say(f"image {found['name']} is there: {found['format']}, {size(found['size'])}")


for _command in (import_, ls, show, rm, build):
    image.add_command(_command)
