"""After a reboot of the host the pids of the inventory are those of strangers."""

from __future__ import annotations

import sqlite3
import subprocess

from tests.system.harness import TEMPLATES, Daemon, end, until


def test_a_stranger_that_has_a_recorded_pid_survives(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", str(TEMPLATES / "bootsector.yaml"))
    daemon.kill()
    for pid in daemon.qemus():
        end(pid)
    until(lambda: daemon.qemus() == [], "the machines are gone, as after a reboot")
    # One has the pid after a reboot, the other got it during this boot.
    for boot in ("00000000-0000-4000-8000-000000000000", None):
        stranger = subprocess.Popen(["sleep", "600"])
        try:
            database = sqlite3.connect(daemon.root / "lib" / "labd.db")
            with database:
                database.execute(
                    "UPDATE nodes SET pid=?, ticks=1, boot_id=coalesce(?, boot_id), state='ready'",
                    (stranger.pid, boot),
                )
            database.close()
            daemon.start()
            assert set(daemon.states("bootsector").values()) <= {"crashed", "stopped"}
            daemon.lab("destroy" if boot is None else "down", "bootsector", "--force")
            daemon.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait(60)
    daemon.start()
