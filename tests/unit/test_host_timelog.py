"""Times of the lines of a log: the pure part, and the index beside real files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from labd.drivers.node.qemu.consolelog import RotatingLog
from labd.host import timelog
from labd.host.timelog import LogLine, index_of, read_lines, read_stamped, split_lines, stamp

S = 1_000_000_000  # nanoseconds


def test_a_line_has_the_time_of_its_first_byte() -> None:
    text = b"one\r\ntwo\n\nlast"
    found = list(split_lines(text, 100, [(100, 1 * S), (105, 2 * S), (107, 3 * S)]))
    assert found == [
        LogLine(position=100, time="1970-01-01T00:00:01.000Z", text="one", whole=True),
        LogLine(position=105, time="1970-01-01T00:00:02.000Z", text="two", whole=True),
        LogLine(position=109, time="1970-01-01T00:00:03.000Z", text="", whole=True),
        LogLine(position=110, time="1970-01-01T00:00:03.000Z", text="last", whole=False),
    ]
    assert list(split_lines(b"", 5, [(5, S)])) == []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def test_lines_go_on_over_a_rotation_and_a_restart(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 10_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * S)
    written = RotatingLog(log, limit=200)
    written.open(fresh=True)
    for number in range(6):
        written.write(b"%039d\n" % number)
    written.write(b"half a ")
    written.close()
    again = RotatingLog(log, limit=200)
    again.open(fresh=False)
    again.write(b"line\n")
    again.close()
    lines = read_lines(log)
    assert [line.text.lstrip("0") for line in lines] == ["", "1", "2", "3", "4", "5", "half a line"]
    assert len({line.time for line in lines}) == len(lines)
    assert [line.position for line in lines] == sorted({line.position for line in lines})
    assert read_lines(log, lines[4].position) == lines[5:]
    # A machine that starts anew goes on behind that.
    fresh = RotatingLog(log, limit=200)
    fresh.open(fresh=True)
    fresh.write(b"anew\n")
    fresh.close()
    (line,) = read_lines(log)
    assert line.text == "anew"
    assert line.position > lines[-1].position


def test_a_drip_rotates_the_log_before_its_index_is_large(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 10_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * S)
    monkeypatch.setattr(timelog, "INDEX_LIMIT", 10)
    written = RotatingLog(log)
    written.open(fresh=True)
    for _ in range(50):
        written.write(b".")
    written.close()
    assert index_of(log).stat().st_size <= 10 * 16
    assert index_of(log.with_name("console.log.1")).stat().st_size == 10 * 16


def test_without_an_index_lines_have_the_time_of_the_file(log: Path) -> None:
    assert read_lines(log) == []
    log.write_bytes(b"old\nlines\n")
    index_of(log).write_bytes(b"torn")
    lines = read_lines(log)
    assert [line.text for line in lines] == ["old", "lines"]
    assert {line.time for line in lines} == {stamp(log.stat().st_mtime_ns)}


def test_qemus_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "qemu.log"
    assert read_stamped(path) == []
    path.write_text(
        "2026-11-23T10:00:00.123456Z qemu-system-x86_64: warning: odd\n  more of it\n\n"
        "2026-11-23T10:00:01Z qemu-system-x86_64: terminating on signal 15\n"
    )
    assert [(line.time, line.text) for line in read_stamped(path)] == [
        ("2026-11-23T10:00:00.123Z", "warning: odd"),
        ("2026-11-23T10:00:00.123Z", "  more of it"),
        ("2026-11-23T10:00:01.000Z", "terminating on signal 15"),
    ]
