"""Paths, the lock and the service manager's socket."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labd.host.lockfile import RootLock
from labd.host.notify import Notifier
from labd.host.paths import closed_ancestor, prepare, shipped
from labd.model.errors import ConfigError, Conflict
from labd.model.paths import Paths, check_socket_path
from tests.children import running

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: pytest closes its folders to others, and machines are others.
    with tempfile.TemporaryDirectory(prefix="labd-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_the_paths_of_the_system_and_of_a_root() -> None:
    system = Paths.of(None)
    assert system.config == Path("/etc/labd/labd.toml")
    assert system.api_socket == Path("/run/labd/api.sock")
    assert system.database == Path("/var/lib/labd/labd.db")
    assert Paths.of(Path("/")) == system
    own = Paths.of(Path("/srv/x"))
    assert own.config == Path("/srv/x/etc/labd.toml")
    assert own.plugin_socket == Path("/srv/x/run/plugin.sock")
    assert own.lock == Path("/srv/x/run/labd.lock")
    assert (own.images, own.cache) == (Path("/srv/x/lib/images"), Path("/srv/x/cache"))


def test_a_relative_root_is_refused() -> None:
    with pytest.raises(ConfigError, match="root 'here' is not absolute: write the whole path"):
        Paths.below(Path("here"))


def test_a_root_that_is_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose a root that is 19 bytes shorter"):
        Paths.below(Path("/" + "x" * 98))


def test_the_limit_of_socket_paths_is_the_kernels(root: Path) -> None:
    fits = root / ("x" * (107 - len(str(root)) - 1))
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(str(check_socket_path(fits)))
    too_long = Path(f"{fits}x")
    with socket.socket(socket.AF_UNIX) as channel, pytest.raises(OSError, match="too long"):
        channel.bind(str(too_long))
    with pytest.raises(ConfigError, match="has 108 bytes, and 107 are allowed"):
        check_socket_path(too_long)


def test_folders_have_their_modes_and_twice_is_once(root: Path) -> None:
    paths = Paths.below(root / "lab")
    for _ in range(2):
        prepare(paths)
        assert stat.S_IMODE(paths.nodes.stat().st_mode) == 0o700
        assert stat.S_IMODE(paths.plugins.stat().st_mode) == 0o711
        assert stat.S_IMODE(paths.run.stat().st_mode) == 0o755


def test_a_folder_on_the_way_that_others_cannot_pass(root: Path) -> None:
    closed = root / "closed"
    closed.mkdir(mode=0o700)
    prepare(Paths.below(closed / "lab"))
    assert closed_ancestor(closed / "lab" / "lib") == closed
    assert closed_ancestor(root / "not" / "there") is None


def test_a_folder_that_cannot_be_made(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make folder .*/file/etc: Not a directory"):
        prepare(Paths.below(root / "file"))


def test_the_second_daemon_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "labd.lock"
    with RootLock.acquire(path, root=tmp_path, version="1.2"):
        with pytest.raises(Conflict) as caught:
            RootLock.acquire(path, root=tmp_path, version="1.3")
        assert str(caught.value) == (
            f"labd 1.2 with pid {os.getpid()} serves {tmp_path} already: stop it "
            f"(kill {os.getpid()}; its machines keep running), or give another --root"
        )
    RootLock.acquire(path, root=tmp_path, version="1.3").release()


def test_an_unreadable_lock_still_refuses(tmp_path: Path) -> None:
    path = tmp_path / "labd.lock"
    with RootLock.acquire(path, root=tmp_path, version="1"):
        path.write_text("rubbish")
        with pytest.raises(Conflict, match=f"another labd serves {tmp_path}: stop it"):
            RootLock.acquire(path, root=tmp_path, version="1")


def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "labd.lock"
    # It starts a child that outlives it, as machines do.
    code = (
        "import sys, asyncio, pathlib\n"
        "from labd.host.lockfile import RootLock\n"
        "from labd.host.spawn import spawn\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "lock = RootLock.acquire(path, root=path.parent, version='1')\n"
        "async def main():\n"
        "    child = await spawn(['sleep', '60'])\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", code, str(path)]
    with running(argv, stdout=subprocess.PIPE, cwd=REPO) as daemon:
        assert daemon.stdout is not None
        child = os.pidfd_open(int(daemon.stdout.readline()))
        try:
            with pytest.raises(Conflict, match=f"pid {daemon.pid} "):
                RootLock.acquire(path, root=tmp_path, version="1")
            daemon.kill()
            daemon.wait()
            RootLock.acquire(path, root=tmp_path, version="1").release()
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


def test_a_lock_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot open lock file .*: No such file or directory"):
        RootLock.acquire(tmp_path / "no" / "labd.lock", root=tmp_path, version="1")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"@labd-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(2)
        notifier = Notifier.of({"NOTIFY_SOCKET": address})
        assert notifier.ready("serving\n2 labs")
        assert manager.recv(999).decode().splitlines() == [
            "READY=1",
            f"MAINPID={os.getpid()}",
            "STATUS=serving 2 labs",
        ]
        assert notifier.status("adopting")
        assert manager.recv(999) == b"STATUS=adopting"
        assert notifier.stopping()
        assert manager.recv(999) == b"STOPPING=1"


def test_without_a_service_manager_nothing_happens(tmp_path: Path) -> None:
    assert Notifier.of({}).ready() is False
    assert Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready() is False
    with pytest.raises(ConfigError, match="is no unix socket: unset it"):
        Notifier.of({"NOTIFY_SOCKET": "relative"})


def test_what_is_shipped_is_found_in_a_checkout() -> None:
    assert shipped("plugins") == REPO / "plugins"
