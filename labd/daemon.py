"""`labd`: the composition root. It builds the adapters, hands them on, and obeys signals.

    labd serve [--root DIR] [--config FILE] [--down]

SIGTERM and SIGINT stop the daemon in order and leave every machine running; with `--down` they
stop the machines too. Readiness and the end are told by sd_notify(3).
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

import click

from labd import __version__
from labd.composition.findings import examine
from labd.composition.running import Daemon
from labd.composition.settings import Settings, configured, settings_of
from labd.drivers.node.qemu import (
    QemuHypervisor,
)
from labd.host.doctor import Level
from labd.host.lockfile import RootLock
from labd.host.notify import Notifier
from labd.host.threads import finish
from labd.host.tuning import go_first, keep_what_is_there, use_one_arena
from labd.inventory import rebuild_inventory
from labd.model.errors import InputError, LabdError
from labd.model.machine import FoundMachine
from labd.model.paths import Paths

log = logging.getLogger("labd")

_THREADS_END = 5.0  # seconds that threads have to end what they do


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labd", message="%(prog)s %(version)s")
def main() -> None:
    """The training-lab daemon; `lab` is the command to use it."""


_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LABD_ROOT",
    help="Keep everything below one folder; without it /etc/labd, /run/labd, /var/lib/labd, "
    "/var/cache/labd.",
)
_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of labd.toml in the configuration folder.",
)


@main.command()
@_root_option
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
def doctor(root: Path | None, config_file: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Judge this host without a daemon; `lab doctor` ends up here when none answers."""
    try:
        paths, config = configured(root, config_file)
        findings = asyncio.run(examine(paths, config))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)
    if as_json:
        found = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"findings": found}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.level:<5} {finding.name}: {finding.text}")
            if finding.level is not Level.OK and finding.advice:
                click.echo(f"      {finding.advice}")
    sys.exit(any(finding.level is Level.FAIL for finding in findings))


@main.command()
@_root_option
@_config_option
@click.option("--down", is_flag=True, help="Stop all machines too when the daemon is stopped.")
def serve(root: Path | None, config_file: Path | None, down: bool) -> None:  # noqa: FBT001
    """Run the daemon in the foreground."""
    use_one_arena()
    go_first()
    try:
        settings = settings_of(root, config_file, take_down=down)
        with RootLock.acquire(settings.paths.lock, root=settings.paths.root, version=__version__):
            asyncio.run(_serve(settings))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)


@main.command()
@_root_option
@_config_option
@click.option("--force", is_flag=True, help="Also when machines run that no copy knows.")
def rebuild(root: Path | None, config_file: Path | None, force: bool) -> None:  # noqa: FBT001
    """Make a damaged inventory anew from its copy; `lab fsck --rebuild` is this."""
    try:
        settings = settings_of(root, config_file, take_down=False)
        with RootLock.acquire(settings.paths.lock, root=settings.paths.root, version=__version__):
            text = asyncio.run(_rebuild(settings.paths, force=force))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)
    click.echo(text)


async def _rebuild(paths: Paths, *, force: bool) -> str:
    async def scan(host_id: str) -> Sequence[FoundMachine]:
        return await QemuHypervisor(host_id, paths.run).scan()

    return await rebuild_inventory(paths.database, scan, force=force)


def _die(error: LabdError, status: int) -> NoReturn:
    click.echo(f"labd: {error.message}", err=True)
    sys.exit(status)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        # The last of all: what threads still do ends whole, unless a disk does not answer.
        stack.push_async_callback(_end_threads)
        daemon = await Daemon.start(settings, stack)
        keep_what_is_there()
        notifier = Notifier.of()
        notifier.ready(f"serving {settings.paths.api_socket}")
        log.info("ready: %s", settings.paths.api_socket)
        await stop.wait()
        notifier.stopping()
        log.info("stopping; machines %s", "too" if settings.take_down else "run on")
        if settings.take_down:
            await daemon.engine.take_everything_down()


async def _end_threads() -> None:
    if left := await finish(_THREADS_END):
        log.warning("%d calls of the disk or the network have not come back; labd ends", left)


if __name__ == "__main__":
    main()
