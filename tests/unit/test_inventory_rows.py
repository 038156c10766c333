"""The pure half of the inventory: statements, JSON columns, migrations in the package."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from labd.inventory import rows
from labd.inventory.database import known_migrations
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import LabSpec, NodeSpec
from labd.model.states import LabState, NodeState

SPEC = LabSpec(template="hello", nodes=(NodeSpec(name="a", commands=(("echo", "ä"),)),))


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    assert list(known_migrations()) == list(range(1, len(known_migrations()) + 1))


def test_a_spec_survives_the_json_column() -> None:
    assert rows.load(LabSpec, rows.dump(SPEC)) == SPEC


def test_a_damaged_json_column_is_not_taken_for_a_spec() -> None:
    with pytest.raises(ValidationError):
        rows.load(LabSpec, '[{"template": 5}]')


def test_a_move_of_state_does_not_write_the_spec_again() -> None:
    lab = LabRecord(name="web", key="k", spec=SPEC, wanted=Wanted.RUNNING, state=LabState.STARTING)
    assert rows.put_lab(lab, None)[0].startswith("INSERT")
    assert rows.put_lab(replace(lab, state=LabState.RUNNING), lab)[0].startswith("UPDATE")
    changed = replace(lab, previous=SPEC)
    assert rows.put_lab(changed, lab)[0].startswith("INSERT")


def test_a_move_of_state_does_not_write_the_machine_again() -> None:
    node = NodeRecord(
        lab="web",
        name="a",
        key="k",
        uuid="u",
        uid=1,
        wanted=Wanted.RUNNING,
        state=NodeState.STARTING,
    )
    sql, values = rows.put_node(replace(node, state=NodeState.RUNNING), node)
    assert sql.startswith("UPDATE nodes SET key=?")
    assert values[-2:] == ("web", "a")
    assert sql.count("?") == len(values)
