"""An inventory that is damaged ends no machine: labd says so, and makes it anew from its copy."""

from __future__ import annotations

from tests.system.harness import TEMPLATES, Daemon, is_alive


def test_a_damaged_inventory_is_refused_by_name_and_made_anew(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", str(TEMPLATES / "bootsector.yaml"))
    assert "already" in daemon.lab("fsck", "--rebuild", expect=1)
    pids, last = daemon.qemus(), int(daemon.events()[-1]["seq"])
    daemon.kill()
    database = daemon.root / "lib" / "labd.db"
    for part in (database, database.with_name("labd.db-wal")):
        if part.exists():
            part.write_bytes(bytes(byte ^ 0x5A for byte in part.read_bytes()))

    said = daemon.refused()
    assert f"inventory {database} is damaged" in said
    assert "`lab fsck --rebuild`" in said
    assert all(map(is_alive, pids))

    assert "made anew with 1 labs" in daemon.lab("fsck", "--rebuild")
    daemon.start()
    assert daemon.qemus() == pids
    assert set(daemon.states("bootsector").values()) == {"ready"}
    assert daemon.differences() == []
    events = daemon.events(after=last)
    assert [event["seq"] for event in events] == list(range(last + 1, last + 1 + len(events)))
    assert events[0]["type"] == "io.labd.daemon.rebuilt"
    adopted = [event for event in events if event["type"] == "io.labd.node.adopted"]
    assert len(adopted) == len(pids)
