"""Write the completion scripts of `lab` for bash, zsh and fish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from labd.cli.main import cli


class _Bash(BashComplete):
    """As click's, but the bash of the host that builds need not be the one that completes."""

    @staticmethod
    def _check_version() -> None:
        """Ask no bash for its version."""


class _Zsh(ZshComplete):
    """As click's, without its way of being sourced, which the second Tab took and found nothing."""

    def source(self) -> str:
        """Return what zsh runs as the body of the function `_lab`, each time."""
        definition, found, _ = super().source().partition("\nif [[ $zsh_eval_context")
        if not found:
            raise RuntimeError("click's script for zsh ends in another way: look at it afresh")
        return f'{definition}\n_lab_completion "$@"\n'


# Where the shells look below /usr/share, and a package manager's prefix.
PLACES: Final[Mapping[str, type[ShellComplete]]] = {
    "bash-completion/completions/lab": _Bash,
    "zsh/site-functions/_lab": _Zsh,
    "fish/vendor_completions.d/lab.fish": FishComplete,
}


def write(folder: Path) -> list[Path]:
    """Write the scripts below a folder; return their files."""
    files = []
    for place, shell in PLACES.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shell(cli, {}, "lab", "_LAB_COMPLETE").source(), encoding="utf-8")
        files.append(file)
    return files
