"""The switch of KSM, on files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.host import tuning
from labd.host.tuning import KsmState, KsmSwitch


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    folder = tmp_path / "ksm"
    folder.mkdir()
    (folder / "run").write_text("0\n")
    (folder / "pages_sharing").write_text("512\n")
    return folder


def test_how_it_stands(kernel: Path, tmp_path: Path) -> None:
    assert tuning.read_ksm("auto", kernel) == KsmState(wanted="auto", run=0, saved=2 << 20)
    assert tuning.read_ksm("off", tmp_path / "none") == KsmState(wanted="off")


def test_it_is_put_back_to_what_it_was_also_by_the_next_daemon(
    kernel: Path, tmp_path: Path
) -> None:
    run, note = kernel / "run", tmp_path / "note"
    KsmSwitch(note, kernel).turn_on()
    assert run.read_text() == "1"
    # The daemon is killed; the next one finds the switch on, and knows that it was off.
    KsmSwitch(note, kernel).turn_on()
    KsmSwitch(note, kernel).restore()
    assert run.read_text() == "0"
    assert not note.exists()
    run.write_text("1")
    KsmSwitch(note, kernel).restore()
    assert run.read_text() == "1", "it was not labd that switched it on"


def test_what_was_on_stays_on_and_what_a_person_has_set_stays(kernel: Path, tmp_path: Path) -> None:
    run, switch = kernel / "run", KsmSwitch(tmp_path / "note", kernel)
    run.write_text("1\n")
    switch.turn_on()
    switch.restore()
    assert run.read_text().strip() == "1"
    run.write_text("0\n")
    switch.turn_on()
    run.write_text("2")
    switch.restore()
    assert run.read_text() == "2"


def test_a_kernel_without_it_is_no_error(tmp_path: Path) -> None:
    switch = KsmSwitch(tmp_path / "note", tmp_path / "none")
    switch.turn_on()
    switch.restore()
    assert not (tmp_path / "note").exists()
