"""`lab logs`."""

from __future__ import annotations

import sys

import click

from labd.cli.session import Session, split_ref, verb


@verb("logs")
@click.argument("ref", metavar="LAB[/NODE]")
def logs(session: Session, ref: str) -> None:
    """Print what a node, or each node of a lab, said on its serial line (at most 1 MiB each)."""
    lab, node = split_ref(ref)
    nodes = [node] if node else [item["name"] for item in session.client.lab(lab)["nodes"]]
    texts = {name: session.client.node_log(lab, name) for name in nodes}
    if session.json:
        session.emit(
            {"lab": lab, "logs": {n: t.decode(errors="replace") for n, t in texts.items()}}
        )
        return
    for name, text in texts.items():
        if not node:
            session.say(f"==> {lab}/{name} <==")
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        if not node and not text.endswith(b"\n"):
            session.say("")
        sys.stdout.flush()
