"""`lab completion`."""

from __future__ import annotations

import click

from labd.cli.session import Session, verb


@verb("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(session: Session, shell: str) -> None:
    """Print a completion script: `eval "$(lab completion bash)"`."""
    from click.shell_completion import get_completion_class

    from labd.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    script = found(cli, {}, "lab", "_LAB_COMPLETE").source()
    if session.json:
        session.emit({"shell": shell, "script": script})
    else:
        session.say(script)
