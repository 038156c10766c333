"""A page is run as it stands, and what it shows is held against what was printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.run_page import ROOT, PageError, Shell, essence, go_through

PAGE = """\
```sh
export word=hello
cd lab-templates
```

Then:

```sh
echo $word; pwd | sed 's,.*/,,'
```

```text
{shown}
```

<!-- page: skip -->
```sh
exit 7
```
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    made = Shell(tmp_path / "work", tmp_path / "home")
    made.prepare()
    return made


def test_blocks_share_what_was_exported_and_each_begins_at_the_top(shell: Shell) -> None:
    page = go_through(PAGE.format(shown="old"), shell, check=False)
    assert page == PAGE.format(shown="hello\nwork")
    assert go_through(page, shell, check=True) == page


def test_a_page_that_shows_other_things_is_refused(shell: Shell) -> None:
    with pytest.raises(PageError, match="hello\nwork\nand the page shows:\ngoodbye"):
        go_through(PAGE.format(shown="goodbye"), shell, check=True)


def test_a_command_that_fails_is_refused_unless_it_varies(shell: Shell) -> None:
    with pytest.raises(PageError, match=r"status 3 of:\nexit 3"):
        go_through("```sh\nexit 3\n```\n", shell, check=False)
    varies = "<!-- page: varies -->\n```sh\necho now; exit 3\n```\n\n```text\nthen\n```\n"
    assert "```text\nnow\n```" in go_through(varies, shell, check=False)
    assert go_through(varies, shell, check=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "router: ready (2.3 s)\nserver: ready (2.5 s)",
            "server: ready (2 min)\nrouter: ready (3 s)",
        ),
        ("id op-d01c0bc3c7d5", "id op-b8c10fa3b35b"),
        ("NAME   STATE\na      up", "NAME STATE\na up"),
        ("2026-12-01T15:04:02.281Z ready", "2027-01-02T03:04:05.006Z ready"),
    ],
)
def test_times_ids_and_the_order_of_lines_do_not_matter(one: str, other: str) -> None:
    assert essence(one) == essence(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a is up", "a is down"), ("one\ntwo", "one"), ("node a", "node b")]
)
def test_words_and_lines_do_matter(one: str, other: str) -> None:
    assert essence(one) != essence(other)


def test_every_block_of_the_tutorial_shows_what_was_printed() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    assert re.findall(r"```text\n```", text) == [], "run `make pages`"
    assert text.count("```text\n") > 10
