"""Fixtures of the system tests: a real daemon each, and a leak check at the end of each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.event_contract import unpromised
from tests.system import privileges
from tests.system.harness import CACHE, Daemon, until
from tests.system.leftovers import STARTED, leftovers
from tests.system.outside import Outside


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fail early and plainly where the host lacks what system tests are about."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if not ours:
        return
    if os.geteuid() != 0:
        pytest.exit("tests/system needs root: it makes namespaces and taps", returncode=2)
    for program in ("qemu-system-x86_64", "mosquitto", "nft", "ip"):
        if shutil.which(program) is None:
            pytest.exit(f"{program} is missing; `make setup` installs it", returncode=2)


_BUILT = 1500.0  # seconds for a guest from nothing, packages and all


@pytest.fixture(scope="session")
def built_tiny() -> None:
    """Build the tiny guest once for all workers."""
    build("labd.images.tiny")


@pytest.fixture(scope="session")
def built_debian() -> None:
    """Build the Debian machine once for all workers."""
    build("labd.images.debian")


def build(recipe: str) -> None:
    """Have a guest in the cache; workers that come meanwhile wait for it."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "tests.lock").open("w") as lock:
        until(lambda: _taken(lock), f"another worker has built what {recipe} waits for", _BUILT)
        subprocess.run(
            [sys.executable, "-m", recipe, "--cache", str(CACHE)],
            check=True,
            capture_output=True,
            timeout=_BUILT,
        )


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Find the host empty of all that the daemons of this process have made, at its end."""
    yield
    found = leftovers({i: root for i, root in STARTED.items() if i not in FAILED})
    assert not found, "\n".join(found)


# Host ids of daemons whose tests have failed and told what is left.
FAILED: set[str] = set()


@pytest.fixture
def make_daemon() -> Iterator[Callable[..., Daemon]]:
    """Return a maker of daemons; each is started, and at the end stopped and found clean."""
    made: list[Daemon] = []

    def make(
        config: str = "", *, start: bool = True, namespace: str = "", forked: bool = True
    ) -> Daemon:
        root = Path(tempfile.mkdtemp(prefix="labd-"))
        root.chmod(0o755)
        daemon = Daemon(root, config, namespace=namespace, forked=forked)
        made.append(daemon)
        if start:
            daemon.start()
        return daemon

    yield make
    problems = []
    for daemon in made:
        problems += finish(daemon)
    assert not problems, "\n".join(problems)


def finish(daemon: Daemon) -> list[str]:
    """Destroy what the test left, stop the daemon, and return what leaked."""
    problems: list[str] = []
    try:
        if daemon.process is None:
            return []
        if daemon.process.poll() is not None:
            daemon.start()
        labs = [lab["name"] for lab in daemon.json("ls")["labs"]]
        for lab in labs:
            daemon.run("wait", lab, "--for", "idle", timeout=300)
        problems += privileges.lasting(daemon.qemus, daemon.root)
        if labs and not daemon.harmed:
            problems += daemon.differences()
        for lab in labs:
            daemon.lab("destroy", lab, "--force")
        problems += daemon.differences()
        problems += daemon.leaks()
        status = daemon.stop()
        if status != 0:
            problems.append(f"labd ended with {status}: {daemon.log.read_text()[-2000:]}")
        problems += daemon.leaks_after_stop()
        problems += unpromised(daemon.outbox())
        said = daemon.log.read_text().splitlines()
        if not daemon.faulty:
            problems += [line for line in said if "met a fault of labd" in line]
    except BaseException as error:
        problems.append(f"{error!r}; machines may run on: {daemon.root}")
        raise
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        if problems:
            FAILED.add(daemon.host_id)
        else:
            shutil.rmtree(daemon.root, ignore_errors=True)
    return problems


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """Return a started daemon."""
    return make_daemon()


@pytest.fixture
def outside() -> Iterator[Outside]:
    """Yield a host with an outside; a daemon on it must be asked for after it."""
    made = Outside()
    try:
        made.make()
        yield made
    finally:
        made.close()
