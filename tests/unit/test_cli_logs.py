"""`lab logs` against the real API over the real engine on fakes."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.children import running
from tests.unit.cli_runner import LAB, Cli


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up, of which each QEMU has warned of something."""
    lab("up", lab.web)
    for node in ("a", "b"):
        run = lab.server.daemon.host.machines[lab.server.key(node)].spec.run
        (run / "qemu.log").write_text("2030-01-01T00:00:02.000Z qemu-system-x86_64: a warning\n")
    return lab


def test_all_that_is_known_of_a_node_in_one_time_line(lab: Cli) -> None:
    lines = lab("logs", "web/a").splitlines()
    said = [line for line in lines if " labd " not in line]
    assert [line[24:] for line in said] == [
        "console booting",
        "console labd: ready",
        "qemu    a warning",
    ]
    assert said[-1].startswith("2030-01-01 00:00:02.000 ")
    decided = [line.split(maxsplit=3)[3].split()[0] for line in lines if " labd " in line]
    assert "node.ready" in decided
    assert lines == sorted(lines, key=lambda line: line[:23])
    assert "node.ready" not in lab("logs", "web/a", "--since", "2031-01-01T00:00:00Z")


def test_a_lab_names_its_nodes_and_json_has_lines(lab: Cli) -> None:
    words = [line.split()[2] for line in lab("logs", "web").splitlines()]
    assert {"a", "b", "-"} <= set(words)
    items = [json.loads(line) for line in lab("--json", "logs", "web/b").splitlines()]
    assert {item["source"] for item in items} == {"console", "qemu", "labd"}
    assert {item["node"] for item in items} <= {"b", ""}


def test_what_comes_later_is_followed_once(lab: Cli) -> None:
    words = [LAB, "--root", str(lab.server.root), "logs", "-f", "web/a"]
    with running(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        out, lines = child.stdout, list[str]()

        def read_to(word: str) -> None:
            while not lines or word not in lines[-1]:
                lines.append(out.readline())
                assert lines[-1], f"it ended before {word}: {lines}"

        read_to("node.ready")
        lab.server.call(lab.server.daemon.host.die, lab.server.key("a"))
        read_to("node.crashed")
    assert sum("a warning" in line for line in lines) == 1
    assert sum("booting" in line for line in lines) == 1
