"""Build the tiny guest and print where it is: `python -m labd.images.tiny --cache DIR`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from labd.images.tiny import CMDLINE, FLAVOURS, build
from labd.model.errors import LabdError


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), required=True, help="Folder to build in.")
@click.option("--flavour", type=click.Choice(list(FLAVOURS)), default="tiny", show_default=True)
def main(cache: Path, flavour: str) -> None:
    """Print the paths of kernel and initramfs, and the command line that they need."""
    try:
        built = asyncio.run(build(Path(os.path.abspath(cache)), _say, FLAVOURS[flavour]))
    except LabdError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(1)
    click.echo(f"kernel  {built.kernel}\ninitrd  {built.initrd}\ncmdline {CMDLINE}")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
