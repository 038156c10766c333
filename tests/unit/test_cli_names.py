"""Verbs that take several names: a wrong one among them changes nothing."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli_runner import Cli

REMOVE, REVOKE = ("checkpoint", "rm"), ("token", "revoke")


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with checkpoints and tokens `one`, `two` and `three`."""
    lab("up", lab.web)
    for name in ("one", "two", "three"):
        lab("checkpoint", "save", "web", name)
        lab("token", "create", name, "--role", "instructor")
    return lab


def kept(lab: Cli) -> tuple[set[str], set[str]]:
    engine = lab.server.engine
    checkpoints = {view.record.name for view in lab.server.run(engine.checkpoints.all())}
    return checkpoints, {record.name for record in lab.server.run(engine.access.all())}


@pytest.mark.parametrize("verb", [REMOVE, REVOKE])
@pytest.mark.parametrize(
    ("names", "wrong"), [("one nope", "nope"), ("one two nope three", "nope"), ("one A..", "A..")]
)
def test_nothing_is_removed_when_one_is_not_there(
    lab: Cli, verb: tuple[str, str], names: str, wrong: str
) -> None:
    before = kept(lab)
    said = lab(*verb, *names.split(), expect=4)
    assert said == f"lab: there is no {verb[0]} {wrong}; known: one, three, two\n"
    assert kept(lab) == before


def test_what_is_there_is_removed_once(lab: Cli) -> None:
    assert lab(*REMOVE, "one", "two", "one") == (
        "checkpoint one is removed\ncheckpoint two is removed\n"
    )
    assert json.loads(lab("--json", *REVOKE, "two", "one", "two")) == {"revoked": ["two", "one"]}
    assert lab(*REVOKE, "three") == "token three is void\n"
    assert kept(lab) == ({"three"}, set())
    assert "there is no checkpoint one" in lab(*REMOVE, "one", expect=4)


def test_nothing_is_removed_when_one_is_in_use(lab: Cli) -> None:
    lab("fork", "two", "copy")
    lab("pool", "warm", "three", "1")
    before = kept(lab)
    assert lab(*REMOVE, "one", "two", expect=1) == (
        "lab: checkpoint two is in use by copy; destroy it first. Nothing was removed\n"
    )
    assert lab(*REMOVE, "one", "three", expect=1) == (
        "lab: checkpoint three is in use: forks of it are kept ready; `lab pool cool three` ends "
        "its pool. Nothing was removed\n"
    )
    assert kept(lab) == before
