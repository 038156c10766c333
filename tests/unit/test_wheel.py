"""A wheel has man pages and completion scripts, which are right and the same at each build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pexpect
import pytest

from labd.cli.main import VERBS, cli
from labd.daemon import main as daemon
from labd.host import config
from tools import completions, manpages

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("wheel")


def build(folder: Path) -> Path:
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel installs below share/."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build(folder)) as wheel:
        wheel.extractall(folder)
    [found] = folder.glob("*.data/data/share")
    return found


def rendered(page: Path) -> str:
    argv = ["man", "--warnings=all", "-E", "UTF-8", "-l", str(page)]
    done = subprocess.run(
        argv,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
    )
    assert done.stderr == ""
    return re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)


def test_a_wheel_has_a_page_for_each_verb_and_a_script_for_each_shell(share: Path) -> None:
    found = {str(file.relative_to(share)) for file in share.rglob("*") if file.is_file()}
    pages = {"man/man1/lab.1", "man/man5/labd.toml.5", "man/man8/labd.8"}
    pages |= {f"man/man1/lab-{verb}.1" for verb in VERBS}
    assert found == pages | set(completions.PLACES)


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a"), build(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def leaves(context: click.Context) -> Iterator[click.Context]:
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        inner = context.command.get_command(context, name)
        assert inner is not None
        yield from leaves(click.Context(inner, info_name=name, parent=context))


def options(context: click.Context) -> set[str]:
    params = [param for param in context.command.params if isinstance(param, click.Option)]
    return {word for param in params if not param.hidden for word in param.opts}


def test_pages_render_without_a_warning_and_name_every_option(share: Path) -> None:
    context = click.Context(cli, info_name="lab")
    for verb in VERBS:
        text = rendered(share / "man" / "man1" / f"lab-{verb}.1")
        inner = click.Context(cli.get_command(context, verb), info_name=verb, parent=context)  # type: ignore[arg-type]
        for leaf in leaves(inner):
            assert leaf.command_path in text
            assert {word for word in options(leaf) if word not in text} == set()
    text = rendered(share / "man" / "man1" / "lab.1")
    assert {verb for verb in VERBS if f"lab-{verb}(1)" not in text} == set()
    assert {word for word in options(context) if word not in text} == set()


def test_the_page_of_the_daemon_names_all_that_it_takes(share: Path) -> None:
    text = rendered(share / "man" / "man8" / "labd.8")
    assert isinstance(daemon, click.Group)
    context = click.Context(daemon, info_name="labd")
    words = {"-h", "--help", *options(context), *daemon.commands}
    for leaf in leaves(context):
        assert leaf.command_path in text
        words |= options(leaf)
    assert {word for word in words if word not in text} == set()
    others = text.replace("lab fsck --rebuild", "")
    assert set(re.findall(r"--\w[\w-]*", others)) <= words


def test_the_page_of_the_configuration_has_every_key_and_default(share: Path) -> None:
    text = rendered(share / "man" / "man5" / "labd.toml.5")
    documented = set()
    for line in (config.__doc__ or "").splitlines():
        if match := re.match(r"    (\w+) = (.*?)(?:  +#|$)", line):
            documented.add((match[1], match[2].strip()))
    assert len(documented) > 30
    flat = " ".join(text.split())
    assert {key for key, value in documented if not re.search(rf"\b{key}\b", flat)} == set()
    assert {value for _, value in documented if f"default {value}" not in flat} == set()


@pytest.mark.parametrize("words", [".B", "'x", "a\\fBb", "- ~ ^ `x` “…”", '"a"'])
def test_text_is_never_taken_for_roff(words: str, tmp_path: Path) -> None:
    page = tmp_path / "x.1"
    page.write_text(
        f'.TH X 1 "" "" ""\n.SH NAME\nx \\- {manpages.text(words)}\n.PP\n{manpages.text(words)}\n'
    )
    assert rendered(page).count(words) == 2


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        (["bash", "--norc", "--noprofile", "-i"], "bash-completion/completions/lab"),
        (["fish", "--no-config", "-i"], "fish/vendor_completions.d/lab.fish"),
        (["zsh", "-f", "-i"], "zsh/site-functions/_lab"),
    ],
)
def test_a_shell_completes_a_verb(
    shell: list[str], script: str, share: Path, tmp_path: Path
) -> None:
    folder = (share / script).parent
    load = f"autoload -Uz compinit; fpath=({folder} $fpath); compinit -u -d {tmp_path}/dump"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "LABD_ROOT": str(tmp_path),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }
    child = pexpect.spawn(
        shell[0], shell[1:], env=environment, encoding="utf-8", timeout=60, dimensions=(40, 200)
    )
    try:
        child.sendline(load if shell[0] == "zsh" else f"source {share / script}")
        child.sendline("echo load''ed")
        child.expect("loaded")
        child.send("lab checkp\t")
        child.expect("checkpoint")
        child.send("expo\t")
        child.expect("export")
    finally:
        child.close(force=True)
