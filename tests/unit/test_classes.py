"""Rosters, what is due for a class, and `lab class` on the real API."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.cli.roster import parse_roster, read_roster
from labd.features.classes.plan import require_room
from labd.model.errors import InputError, NoRoom
from tests.unit.cli_runner import Cli

RULE = "use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"


def test_a_roster() -> None:
    assert parse_roster("name,color\nann, red\n\nbob,\n", "r.csv") == [
        {"name": "ann", "settings": {"color": "red"}},
        {"name": "bob", "settings": {"color": ""}},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.csv:1: no students; write a line `name`, and a line for each"),
        ("name\n", "r.csv:1: no students; write a line `name`, and a line for each"),
        ("who\nann\n", "r.csv:1: the first line must name the columns, and one of them `name`"),
        (
            "name;seat\nann;1\n",
            (
                "r.csv:1: the first line must name the columns, and one of them `name`"
                ", with commas between, not ';'"
            ),
        ),
        ("name,name\n", "r.csv:1: column name is there twice (as LABD_NAME)"),
        ("name,seat,Seat\n", "r.csv:1: column seat is there twice (as LABD_SEAT)"),
        (
            "name,student\n",
            (
                "r.csv:1: column student would be LABD_STUDENT, which labd itself gives; choose "
                "another name for the column"
            ),
        ),
        (
            "name\n" + "".join(f"s{n}\n" for n in range(501)),
            "r.csv: a class has at most 500 students, and these are 501; make two classes of them",
        ),
        (
            "name,a b\n",
            "r.csv:1: column 'a b' cannot be a parameter: use letters, digits and '_'",
        ),
        ("name\nann\nbob\nann\n", "r.csv:4: student ann is in line 2 already"),
        ("name,x\nann\n", "r.csv:2: 1 columns, and the first line has 2"),
        ('name\n"ann\n', "r.csv:2: this is no CSV: unexpected end of data"),
        ("name,x\nann,a\x1bb\n", "r.csv:2: column x has a character that cannot be shown"),
        *(
            (
                f"name\n{name}\n",
                f"r.csv:2: student name {name!r} is not valid: {RULE}",
            )
            for name in ("../etc", "Ann", "-x", "a b", "$(id)", "ä")
        ),
    ],
)
def test_a_bad_roster_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_roster(text, "r.csv")
    assert error.value.message == message


def test_a_roster_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_roster(str(tmp_path / "none.csv"))
    (tmp_path / "r.csv").write_bytes(b"name\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_roster(str(tmp_path / "r.csv"))


def test_admission_says_how_many_fit() -> None:
    require_room("x", 3, 100, 300)
    with pytest.raises(NoRoom, match="enough for 2;"):
        require_room("x", 3, 100, 299)


def test_the_verb(lab: Cli, tmp_path: Path) -> None:
    roster = tmp_path / "r.csv"
    roster.write_text("name\nann\nbob\n")
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    start = ("class", "start", "c", "--name", "x", "--students", str(roster), "--lease", "3h")
    assert lab(*start) == "class x: 2 of 2 labs are up\n"
    assert lab("class", "ls").splitlines()[1].split() == ["x", "c", "2", "2", "running"]
    assert lab("class", "status", "x").splitlines()[2].split() == ["ann", "x-ann", "running"]
    assert lab("class", "extend", "x", "1h") == "class x: all its leases last 1h longer\n"
    assert "no student eve in class x" in lab("class", "reset", "x", "eve", expect=4)
    assert lab("class", "add", "x", "--count", "1") == "class x: 3 of 3 labs are up\n"
    assert "there is no class y" in lab("class", "add", "y", "--count", "1", expect=4)
    assert lab("class", "stop", "x") == "class x is being stopped\n"
    assert lab("class", "destroy", "x") == "class x is destroyed\n"
    assert lab("class", "status", "x", expect=4) == "lab: there is no class x\n"
    assert lab("class", "start", "c", "--count", "2") == "class c: 2 of 2 labs are up\n"
    assert lab("class", "status", "c").splitlines()[2].split() == ["s1", "c-s1", "running"]
    roster.write_text("name\nslow\n")
    lab.server.daemon.host.fail_launch["*"] = "too slow"
    assert "slow: too slow; the same command tries again" in lab(
        "class", "start", "c", "--name", "x", "--students", str(roster), expect=1
    )


def test_labs_that_are_not_up_are_not_told_as_up(lab: Cli) -> None:
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    start = ("class", "start", "c", "--name", "x", "--count", "3")
    assert lab(*start) == "class x: 3 of 3 labs are up\n"
    lab.server.call(lab.server.daemon.host.panic, lab.server.key("a", "x-s2"))
    lab("wait", "x-s2", "--for", "degraded")
    assert lab(*start) == "class x: 2 of 3 labs are up; x-s2 is degraded\n"
    lab("destroy", "x-s3")
    story = lab.server.story()
    # A lab of this name may be somebody else's.
    assert lab("class", "reset", "x", "s3", expect=4) == (
        "lab: student s3 of class x has no lab (gone); the command that started the class, given "
        "again, makes one\n"
    )
    assert lab.server.story() == story, "nothing was begun"


def test_a_template_as_the_source(lab: Cli) -> None:
    out, err = lab.both("class", "start", lab.web, "--count", "2", "--queue", "--set", "seat=3")
    assert out == "class web: 2 of 2 labs are up\n"
    assert err == "the first copy is booted and saved, then the others are forked from it\n"
    again = lab.both("class", "start", lab.web, "--count", "2", "--queue", "--set", "seat=3")
    assert again == (out, ""), "no first copy is booted"
    record = lab.server.run(lab.server.engine.classes.get("web")).record
    assert record.spec is not None
    assert (record.spec.template, record.queue, record.settings) == ("web", True, {"seat": "3"})
    assert lab("class", "start", "nothing", "--count", "2", expect=4) == (
        "lab: there is no checkpoint nothing, and no template of that name; "
        "`lab checkpoint ls` and `lab template ls` list them\n"
    )
    assert lab("class", "start", "./no.yaml", "--count", "2", expect=2) == (
        "lab: there is no file ./no.yaml; give the path of a lab template\n"
    )


def test_bad_words(lab: Cli, tmp_path: Path) -> None:
    assert lab("class", "start", "c", "--name", "x", expect=2) == (
        "lab: say who takes part: --students FILE or --count N\n"
    )
    (tmp_path / "r.csv").write_text("name\nann\nann\n")
    said = lab("class", "start", "c", "--name", "x", "--students", f"{tmp_path}/r.csv", expect=2)
    assert said == f"lab: {tmp_path}/r.csv:3: student ann is in line 2 already\n"
