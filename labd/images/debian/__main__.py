"""Build the Debian machine and print where it is: `python -m labd.images.debian --cache DIR`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from labd.images.debian import CMDLINE, build
from labd.model.errors import LabdError


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), required=True, help="Folder to build in.")
def main(cache: Path) -> None:
    """Print the paths of disk, kernel and initramfs, and the command line that they need."""
    try:
        built = asyncio.run(build(Path(os.path.abspath(cache)), _say))
    except LabdError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(1)
    click.echo(
        f"disk    {built.disk}\nkernel  {built.kernel}\ninitrd  {built.initrd}\ncmdline {CMDLINE}"
    )


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
