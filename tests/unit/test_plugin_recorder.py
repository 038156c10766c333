"""recorder and webhook: what they do with files and bodies, without a labd."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.test_plugin_watchdog import load


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    return load("recorder")


def lines(folder: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in sorted(folder.iterdir())}


def test_lines_are_appended_and_the_folder_is_made(recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "labs" / "web.jsonl"
    recorder.write(path, '{"seq":1}\n', 100, 2)
    recorder.write(path, '{"seq":2}\n', 100, 2)
    assert lines(path.parent) == {"web.jsonl": '{"seq":1}\n{"seq":2}\n'}


def test_a_full_file_is_rotated_and_the_oldest_goes(recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    for seq in range(1, 8):
        recorder.write(path, f'{{"seq":{seq}}}\n', 20, 2)  # two lines fit exactly
    assert lines(tmp_path) == {
        "web.jsonl": '{"seq":7}\n',
        "web.jsonl.1": '{"seq":5}\n{"seq":6}\n',
        "web.jsonl.2": '{"seq":3}\n{"seq":4}\n',
    }


def test_none_is_kept_when_none_is_wanted(recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    for seq in range(1, 4):
        recorder.write(path, f'{{"seq":{seq}}}\n', 20, 0)
    assert lines(tmp_path) == {"web.jsonl": '{"seq":3}\n'}


def test_a_line_longer_than_a_file_has_one_alone(recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    recorder.write(path, "a\n", 4, 3)
    recorder.write(path, "much longer\n", 4, 3)
    recorder.write(path, "b\n", 4, 3)
    assert lines(tmp_path) == {
        "web.jsonl": "b\n",
        "web.jsonl.1": "much longer\n",
        "web.jsonl.2": "a\n",
    }


def test_a_gap_among_the_older_files_is_no_trouble(recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    path.write_text("new\n")
    (tmp_path / "web.jsonl.2").write_text("old\n")  # somebody has removed .1
    recorder.rotate(path, 3)
    assert lines(tmp_path) == {"web.jsonl.1": "new\n", "web.jsonl.3": "old\n"}


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ('{"seq":1}\n{"se', '{"seq":1}\n'),
        ('{"se', ""),
        ('{"seq":1}\n{"text":"' + "x" * 9000, '{"seq":1}\n'),
    ],
)
def test_half_a_line_of_a_full_disk_or_a_power_loss_is_cut_off(
    recorder: ModuleType, tmp_path: Path, left: str, kept: str
) -> None:
    # Its event was not counted as handled, so it comes again, and must not be glued to the half.
    path = tmp_path / "web.jsonl"
    path.write_text(left)
    recorder.write(path, '{"seq":2}\n', 20000, 2)
    assert path.read_text() == f'{kept}{{"seq":2}}\n'


def test_a_disk_that_is_full_is_told(recorder: ModuleType) -> None:
    with pytest.raises(OSError, match="No space left"):
        recorder.write(Path("/dev/full"), "line\n", 1000, 1)


def test_the_signature_is_an_hmac_of_the_body() -> None:
    webhook = load("webhook")
    digest = hmac.new(b"key", b"{}", hashlib.sha256).hexdigest()
    assert webhook.signature(b"{}", "key") == f"sha256={digest}"
    assert webhook.signature(b"{ }", "key") != f"sha256={digest}"
