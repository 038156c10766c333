"""`lab down`, `destroy`, `start`, `stop`, `restart`, `pause`, `resume` and `reset`."""

from __future__ import annotations

import click

from labd.cli.progress import run_operation
from labd.cli.session import Session, seconds, split_ref, verb
from labd.model.errors import InputError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from labd.client.types import ActionName, Operation

_DONE: dict[ActionName, str] = {
    "down": "is down; its disks are kept",
    "destroy": "is destroyed",
    "start": "is started",
    "stop": "is stopped",
    "restart": "is restarted",
    "pause": "is paused",
    "resume": "runs on",
    "reset": "is reset",
}


_WHOLE = {"down", "destroy"}


def _targets(action: ActionName, refs: tuple[str, ...]) -> dict[str, list[str]]:
    """Return lab -> its nodes (none: the whole lab), in the order given."""
    found: dict[str, list[str]] = {}
    whole: set[str] = set()
    for ref in refs:
        lab, node = split_ref(ref)
        if node and action in _WHOLE:
            raise InputError(f"`{action}` takes whole labs; for a node use: lab stop {ref}")
        nodes = found.setdefault(lab, [])
        if not node:
            whole.add(lab)
        elif node not in nodes:
            nodes.append(node)
    return {lab: [] if lab in whole else nodes for lab, nodes in found.items()}


def _look_up(session: Session, action: ActionName, refs: tuple[str, ...]) -> None:
    """Look all targets up before anything is done to the first of them.

    A single one is left to labd: its request fails as a whole.

    Raises:
        NotFound: There is none of that name; `lab stop LAB NODE` is told to write LAB/NODE.
    """
    if len(refs) < 2:
        return
    present = {
        lab["name"]: [node["name"] for node in lab["nodes"]] for lab in session.client.labs()
    }
    for ref in refs:
        lab, node = split_ref(ref)
        if lab in present and (not node or node in present[lab]):
            continue
        from labd.model.names import check_name, did_you_mean

        if lab in present:
            raise NotFound(f"there is no node {ref}{did_you_mean(node, present[lab])}")
        owners = [
            other for other, _ in map(split_ref, refs) if not node and lab in present.get(other, ())
        ]
        if not owners:
            check_name(lab, "lab")
            raise NotFound(f"there is no lab {lab}{did_you_mean(lab, present)}")
        meant = f"{owners[0]}/{lab}"
        if action in _WHOLE:
            hint = f"`{action}` takes whole labs; for a node use: lab stop {meant}"
        else:
            hint = f"did you mean '{meant}'?"
        raise NotFound(f"there is no lab {lab}; {hint}")


def _act(
    session: Session,
    action: ActionName,
    refs: tuple[str, ...],
    *,
    no_wait: bool,
    force: bool = False,
    grace: str = "20s",
) -> None:
    limit = seconds(grace)
    results: list[Operation] = []
    targets = _targets(action, refs)
    _look_up(session, action, refs)
    for lab, nodes in targets.items():

        def begin(lab: str = lab, nodes: list[str] = nodes) -> Operation:
            return session.client.act(action, lab, nodes, force=force, grace=limit)

        operation = run_operation(session, lab, begin, wait=not no_wait)
        results.append(operation)
        if session.json:
            continue
        names = ", ".join(f"{lab}/{node}" for node in nodes) or lab
        if no_wait:
            session.say(f"{names}: {action} has begun ({operation['id']})")
        else:
            session.say(f"{names} {_DONE[action]}")
    if session.json:
        session.emit(results[0] if len(results) == 1 else {"operations": results})


def _verb(action: ActionName, text: str, *, manner: bool, metavar: str) -> click.Command:
    def plain(session: Session, refs: tuple[str, ...], no_wait: bool) -> None:
        _act(session, action, refs, no_wait=no_wait)

    def stopping(
        session: Session, refs: tuple[str, ...], no_wait: bool, force: bool, grace: str
    ) -> None:
        _act(session, action, refs, no_wait=no_wait, force=force, grace=grace)

    function: Callable[..., None] = stopping if manner else plain
    function.__doc__ = text
    options = [
        click.argument("refs", nargs=-1, required=True, metavar=metavar),
        click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it."),
    ]
    if manner:
        options += [
            click.option("--force", is_flag=True, help="Power off without asking the guest."),
            click.option(
                "--grace",
                default="20s",
                show_default=True,
                metavar="TIME",
                help="How long a guest has to obey before it is powered off.",
            ),
        ]
    for option in reversed(options):
        function = option(function)
    return verb(action)(function)


_LABS, _REFS = "LAB...", "LAB[/NODE]..."

down = _verb("down", "Stop labs and keep their disks.", manner=True, metavar=_LABS)
destroy = _verb("destroy", "Remove labs and everything of them.", manner=True, metavar=_LABS)
start = _verb("start", "Start labs or nodes.", manner=False, metavar=_REFS)
stop = _verb(
    "stop",
    "Ask guests to power off, and power them off after a grace period; disks are kept.",
    manner=True,
    metavar=_REFS,
)
restart = _verb("restart", "Stop labs or nodes, and start them.", manner=True, metavar=_REFS)
pause = _verb("pause", "Hold the CPUs of labs or nodes still.", manner=False, metavar=_REFS)
resume = _verb("resume", "Let paused labs or nodes run on.", manner=False, metavar=_REFS)


@verb("reset")
@click.argument("refs", nargs=-1, required=True, metavar=_REFS)
@click.option("--button", is_flag=True, help="Press the reset button, also in a fork.")
@click.option("--no-wait", is_flag=True, help="Return as soon as labd has accepted it.")
def reset(session: Session, refs: tuple[str, ...], button: bool, no_wait: bool) -> None:
    """Take labs or nodes that were started from a checkpoint back to it.

    What was booted has its reset button pressed, and keeps its disks; so has a fork with --button.
    """
    targets = _targets("reset", refs)
    _look_up(session, "reset", refs)
    for lab, nodes in targets.items():
        again = [f"{lab}/{node}" for node in nodes] or [lab]
        if button or not session.client.lab(lab)["origin"]:
            _act(session, "reset", tuple(again), no_wait=no_wait)
            continue

        def begin(lab: str = lab, nodes: list[str] = nodes) -> Operation:
            return session.client.checkpoints.restore(lab, "", nodes)

        operation = run_operation(session, lab, begin, wait=not no_wait)
        if session.json:
            session.emit(operation)
        elif no_wait:
            session.say(f"{', '.join(again)}: reset has begun ({operation['id']})")
        else:
            session.say(
                f"{', '.join(again)} {'is' if len(again) == 1 else 'are'} back at the start"
            )
